import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * A Streams application that counts the words of topic `words` into `counted`, exactly once, and what proves it.
 *
 * <p>Counts app BOOTSTRAP STATE_DIRECTORY runs one instance. Counts produce BOOTSTRAP COUNT WORDS SECONDS writes COUNT
 * records of WORDS words. Counts check BOOTSTRAP COUNT reads `counted`: the counts of each word must be 1, 2, 3 and so
 * on without a gap or a repetition, and their number COUNT.
 */
public class Counts {
    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[1];
        switch (arguments[0]) {
            case "app" -> app(bootstrap, arguments[2]);
            case "produce" -> produce(bootstrap, Integer.parseInt(arguments[2]), Integer.parseInt(arguments[3]),
                Integer.parseInt(arguments[4]));
            default -> check(bootstrap, Integer.parseInt(arguments[2]));
        }
    }

    static void app(String bootstrap, String stateDirectory) {
        Properties properties = new Properties();
        properties.put("application.id", "counts");
        properties.put("bootstrap.servers", bootstrap);
        properties.put("processing.guarantee", "exactly_once_v2");
        properties.put("state.dir", stateDirectory);
        properties.put("replication.factor", "3");
        properties.put("num.standby.replicas", "1");
        // Most of what an instance has written is not committed when it is killed: without transactions the next one
        // counts it twice.
        properties.put("commit.interval.ms", "1000");
        properties.put("producer.linger.ms", "0");
        // Each count is written, so that a lost or repeated one shows.
        properties.put("statestore.cache.max.bytes", "0");
        properties.put("main.consumer.auto.offset.reset", "earliest");
        // A killed instance is missed soon.
        properties.put("main.consumer.session.timeout.ms", "6000");
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream("words", Consumed.with(Serdes.String(), Serdes.String()))
            .selectKey((key, word) -> word)
            .groupByKey(Grouped.with("by-word", Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long, KeyValueStore<Bytes, byte[]>>as("counts"))
            .toStream()
            .to("counted", Produced.with(Serdes.String(), Serdes.Long()));
        KafkaStreams streams = new KafkaStreams(builder.build(), properties);
        streams.setUncaughtExceptionHandler(error -> {
            System.err.println("a thread is replaced after " + error);
            return StreamThreadExceptionResponse.REPLACE_THREAD;
        });
        streams.start();
    }

    static void produce(String bootstrap, int count, int words, int seconds) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        List<Exception> errors = new ArrayList<>();
        long start = System.currentTimeMillis();
        try (KafkaProducer<String, String> producer =
            new KafkaProducer<>(properties, new StringSerializer(), new StringSerializer())) {
            for (int i = 0; i < count; i++) {
                long due = start + 1000L * seconds * i / count - System.currentTimeMillis();
                if (due > 0) {
                    Thread.sleep(due);
                }
                producer.send(new ProducerRecord<>("words", "word-" + i % words), (metadata, error) -> {
                    if (error != null) {
                        synchronized (errors) {
                            errors.add(error);
                        }
                    }
                });
            }
        }
        if (!errors.isEmpty()) {
            throw errors.get(0);
        }
        System.out.println("ok");
    }

    static void check(String bootstrap, int count) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("isolation.level", "read_committed");
        properties.put("auto.offset.reset", "earliest");
        Map<String, Long> last = new HashMap<>();
        int read = 0;
        long deadline = System.currentTimeMillis() + 170_000;
        try (KafkaConsumer<String, Long> consumer =
            new KafkaConsumer<>(properties, new StringDeserializer(), new LongDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor("counted").forEach(info ->
                partitions.add(new TopicPartition(info.topic(), info.partition())));
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            // After the last count one more poll, which must find nothing.
            boolean quiet = false;
            while (read < count || !quiet) {
                if (System.currentTimeMillis() > deadline) {
                    throw new IllegalStateException(read + " of " + count + " counts were read in time: " + last);
                }
                quiet = true;
                for (ConsumerRecord<String, Long> record : consumer.poll(Duration.ofSeconds(1))) {
                    quiet = false;
                    read++;
                    long before = last.getOrDefault(record.key(), 0L);
                    if (record.value() != before + 1) {
                        throw new IllegalStateException(record + " after the count " + before);
                    }
                    last.put(record.key(), record.value());
                }
            }
        }
        if (read != count) {
            throw new IllegalStateException(read + " counts of " + count + " records");
        }
        System.out.println("ok");
    }
}
