import java.io.File;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;

import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.auth.SaslExtensionsCallback;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerTokenCallback;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

/** LoginCases FILE: as login_cases.py, with Kafka's own client. */
public class LoginCases {
    static final int AT_A_TIME = 16;
    /** Reached only where something is wrong: a client that is refused learns of it. */
    static final int PATIENCE_S = 40;
    /** The client connects again in the background after an error: for so long its connections are counted. */
    static final int OBSERVED_MS = 3_000;
    static final String MODULES = "org.apache.kafka.common.security.";

    public static void main(String[] arguments) throws Exception {
        ClassLoader loader = Thread.currentThread().getContextClassLoader();
        ExecutorService pool = Executors.newFixedThreadPool(AT_A_TIME);
        for (JsonNode one : new ObjectMapper().readTree(new File(arguments[0]))) {
            pool.submit(() -> {
                Thread.currentThread().setContextClassLoader(loader);
                System.out.println(one.get("id").asText() + "\t" + outcome(one));
            });
        }
        pool.shutdown();
        pool.awaitTermination(1, TimeUnit.HOURS);
    }

    static String outcome(JsonNode one) {
        try {
            return roundTrip(one);
        } catch (ExecutionException e) {
            return e.getCause().getClass().getSimpleName();
        } catch (Exception e) {
            return e.getClass().getSimpleName();
        }
    }

    static String roundTrip(JsonNode one) throws Exception {
        Map<String, Object> settings = settings(one);
        String topic = one.get("topic").asText(), id = one.get("id").asText();
        long offset;
        try (KafkaProducer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            try {
                offset = producer.send(new ProducerRecord<>(topic, 0, null, id)).get().offset();
            } catch (ExecutionException e) {
                Thread.sleep(OBSERVED_MS);
                throw e;
            }
        }
        try (KafkaConsumer<String, String> consumer =
                new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            consumer.seek(new TopicPartition(topic, 0), offset);
            for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(PATIENCE_S))) {
                return record.value().equals(id) ? "ok" : "another record";
            }
        }
        return "no record";
    }

    static Map<String, Object> settings(JsonNode one) {
        Map<String, Object> settings = new HashMap<>();
        settings.put("bootstrap.servers", one.get("bootstrap").asText());
        settings.put("security.protocol", one.get("protocol").asText());
        settings.put("ssl.truststore.type", "PEM");
        settings.put("ssl.truststore.location", one.get("ca").asText());
        settings.put("max.block.ms", 1_000 * PATIENCE_S);
        if (one.hasNonNull("store")) {
            settings.put("ssl.keystore.type", "PEM");
            settings.put("ssl.keystore.location", one.get("store").asText());
        }
        if (one.hasNonNull("mechanism")) {
            String mechanism = one.get("mechanism").asText();
            settings.put("sasl.mechanism", mechanism);
            String login = " required username=\"" + one.get("user").asText() + "\" password=\""
                + one.get("password").asText() + "\"";
            if (mechanism.equals("PLAIN")) {
                settings.put("sasl.jaas.config", MODULES + "plain.PlainLoginModule" + login + ";");
            } else if (mechanism.equals("OAUTHBEARER")) {
                settings.put("sasl.jaas.config", MODULES + "oauthbearer.OAuthBearerLoginModule" + login + ";");
                settings.put("sasl.login.callback.handler.class", Bearer.class);
            } else {
                String token = one.get("token").asBoolean() ? " tokenauth=\"true\"" : "";
                settings.put("sasl.jaas.config", MODULES + "scram.ScramLoginModule" + login + token + ";");
            }
        }
        return settings;
    }

    /** Gives the password of the login module as the bearer token. */
    public static class Bearer implements AuthenticateCallbackHandler {
        private String value;

        @Override
        public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> entries) {
            value = (String) entries.get(0).getOptions().get("password");
        }

        @Override
        public void handle(Callback[] callbacks) {
            for (Callback callback : callbacks) {
                if (callback instanceof OAuthBearerTokenCallback wanted) {
                    wanted.token(new Token(value));
                } else if (!(callback instanceof SaslExtensionsCallback)) {
                    throw new IllegalArgumentException(callback.getClass().getName());
                }
            }
        }

        @Override
        public void close() {
        }
    }

    record Token(String value) implements OAuthBearerToken {
        @Override
        public Set<String> scope() {
            return Set.of();
        }

        @Override
        public long lifetimeMs() {
            return System.currentTimeMillis() + 600_000;
        }

        @Override
        public String principalName() {
            return "alice";
        }

        @Override
        public Long startTimeMs() {
            return null;
        }
    }
}
