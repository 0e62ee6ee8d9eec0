import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;

import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.testcontainers.containers.GenericContainer;
import org.testcontainers.kafka.ConfluentKafkaContainer;
import org.testcontainers.kafka.KafkaContainer;
import org.testcontainers.utility.DockerImageName;

/**
 * Testcontainers IMAGE: starts the image with each container of Testcontainers' Kafka module, and sends a record
 * through each.
 */
public class Testcontainers {
    static <C extends GenericContainer<C>> void check(String what, C container, Function<C, String> address)
            throws Exception {
        try (container) {
            container.start();
            String bootstrap = address.apply(container);
            StringSerializer serializer = new StringSerializer();
            Map<String, Object> producing = Map.of("bootstrap.servers", bootstrap);
            try (KafkaProducer<String, String> producer = new KafkaProducer<>(producing, serializer, serializer)) {
                producer.send(new ProducerRecord<>("topic", "value")).get(30, TimeUnit.SECONDS);
            }
            StringDeserializer deserializer = new StringDeserializer();
            Map<String, Object> consuming =
                    Map.of("bootstrap.servers", bootstrap, "group.id", "group", "auto.offset.reset", "earliest");
            try (KafkaConsumer<String, String> consumer =
                    new KafkaConsumer<>(consuming, deserializer, deserializer)) {
                consumer.subscribe(List.of("topic"));
                long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(60);
                int read = 0;
                while (read == 0 && System.nanoTime() < end) {
                    read = consumer.poll(Duration.ofSeconds(1)).count();
                }
                if (read != 1) {
                    throw new AssertionError(what + ": the record was not read");
                }
            }
        }
        System.out.println(what);
    }

    @SuppressWarnings("deprecation")
    static org.testcontainers.containers.KafkaContainer older(DockerImageName confluent) {
        return new org.testcontainers.containers.KafkaContainer(confluent);
    }

    public static void main(String[] arguments) throws Exception {
        DockerImageName image = DockerImageName.parse(arguments[0]);
        DockerImageName apache = image.asCompatibleSubstituteFor("apache/kafka");
        DockerImageName confluent = image.asCompatibleSubstituteFor("confluentinc/cp-kafka");
        check("apache", new KafkaContainer(apache), KafkaContainer::getBootstrapServers);
        check("confluent", new ConfluentKafkaContainer(confluent), ConfluentKafkaContainer::getBootstrapServers);
        check("older", older(confluent), org.testcontainers.containers.KafkaContainer::getBootstrapServers);
        check("older, KRaft", older(confluent).withKraft(),
                org.testcontainers.containers.KafkaContainer::getBootstrapServers);
    }
}
