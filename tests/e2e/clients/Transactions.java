import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeSet;

import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;

/**
 * Transactions BOOTSTRAP ID FROM TO COUNT: copies COUNT records between topics, each exactly once, in transactions;
 * every fourth aborts.
 */
public class Transactions {
    static Properties common(String bootstrap) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("key.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        properties.put("value.serializer", "org.apache.kafka.common.serialization.StringSerializer");
        properties.put("key.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        properties.put("value.deserializer", "org.apache.kafka.common.serialization.StringDeserializer");
        properties.put("isolation.level", "read_committed");
        properties.put("enable.auto.commit", "false");
        properties.put("auto.offset.reset", "earliest");
        return properties;
    }

    static KafkaProducer<String, String> producer(String bootstrap, String id) {
        Properties properties = common(bootstrap);
        properties.put("transactional.id", id);
        properties.put("transaction.timeout.ms", "20000");
        KafkaProducer<String, String> producer = new KafkaProducer<>(properties);
        producer.initTransactions();
        return producer;
    }

    public static void main(String[] arguments) {
        String bootstrap = arguments[0], id = arguments[1], from = arguments[2], to = arguments[3];
        int count = Integer.parseInt(arguments[4]);
        int copied = 0, aborted = 0;
        try (KafkaProducer<String, String> inputs = new KafkaProducer<>(common(bootstrap))) {
            for (int i = 0; i < count; i++) {
                inputs.send(new ProducerRecord<>(from, "key-" + i, "value-" + i));
            }
        }
        KafkaProducer<String, String> producer = producer(bootstrap, id);
        Properties properties = common(bootstrap);
        properties.put("group.id", "group-of-" + id);
        properties.put("max.poll.records", "17");
        KafkaConsumer<String, String> consumer = new KafkaConsumer<>(properties);
        consumer.subscribe(Collections.singletonList(from));
        // Whoever runs this ends it after three minutes, and would not learn how far it came.
        long deadline = System.currentTimeMillis() + 140_000;
        while (copied < count && System.currentTimeMillis() < deadline) {
            List<ConsumerRecord<String, String>> batch = new ArrayList<>();
            consumer.poll(Duration.ofMillis(500)).forEach(batch::add);
            if (batch.isEmpty()) {
                continue;
            }
            boolean aborts = (copied / 17 + aborted) % 4 == 3;
            try {
                producer.beginTransaction();
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                for (ConsumerRecord<String, String> record : batch) {
                    producer.send(new ProducerRecord<>(to, record.key(), record.value()));
                    TopicPartition read = new TopicPartition(from, record.partition());
                    offsets.put(read, new OffsetAndMetadata(record.offset() + 1));
                }
                producer.sendOffsetsToTransaction(offsets, consumer.groupMetadata());
                if (aborts) {
                    throw new KafkaException("on purpose");
                }
                producer.commitTransaction();
                copied += batch.size();
            } catch (KafkaException failed) {
                aborted++;
                if (!aborts) {
                    System.out.println("failed: " + failed);
                }
                try {
                    producer.abortTransaction();
                } catch (KafkaException fatal) {
                    producer.close(Duration.ZERO);
                    producer = producer(bootstrap, id);
                }
                for (TopicPartition partition : consumer.assignment()) {
                    OffsetAndMetadata committed = consumer.committed(Collections.singleton(partition)).get(partition);
                    if (committed == null) {
                        consumer.seekToBeginning(Collections.singleton(partition));
                    } else {
                        consumer.seek(partition, committed.offset());
                    }
                }
            }
        }
        consumer.close();
        producer.close();
        properties.put("group.id", "checker-of-" + id);
        KafkaConsumer<String, String> checker = new KafkaConsumer<>(properties);
        checker.subscribe(Collections.singletonList(to));
        List<String> values = new ArrayList<>();
        long quiet = System.currentTimeMillis() + 30_000;
        while (System.currentTimeMillis() < quiet) {
            for (ConsumerRecord<String, String> record : checker.poll(Duration.ofMillis(500))) {
                values.add(record.value());
                if (values.size() == count) {
                    quiet = System.currentTimeMillis() + 3_000;
                }
            }
        }
        checker.close();
        int distinct = new TreeSet<>(values).size();
        System.out.println("copied " + values.size() + " records, " + distinct + " distinct, " + aborted + " aborts");
        if (values.size() != count || distinct != count) {
            System.exit(1);
        }
        System.out.println("ok");
    }
}
