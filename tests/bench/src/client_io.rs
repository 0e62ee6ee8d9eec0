//! Produce and consume through librdkafka against three brokers, beside plain loopback TCP.

#[cfg(not(feature = "real-client"))]
pub fn run(_rounds: usize, _mib: usize) -> anyhow::Result<()> {
    println!("client rows: built without the real-client feature; `make bench` has it");
    Ok(())
}

#[cfg(feature = "real-client")]
pub use real::run;

#[cfg(feature = "real-client")]
mod real {
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result, anyhow, bail, ensure};
    use ottla_e2e::{Cluster, clients};
    use rdkafka::config::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    use rdkafka::error::{KafkaError, RDKafkaErrorCode};
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
    use rdkafka::{Offset, TopicPartitionList};

    use crate::baseline;
    use crate::report::{self, Round};

    const RECORD_BYTES: usize = 1_000;
    const PARTITIONS: i32 = 6;
    const PATIENCE: Duration = Duration::from_secs(120);

    pub fn run(rounds: usize, mib: usize) -> Result<()> {
        let bytes = mib * 1024 * 1024;
        let records = bytes / RECORD_BYTES;
        for acks in ["1", "all"] {
            let (mut produced, mut consumed) = (Vec::new(), Vec::new());
            for round in 0..rounds {
                // A cluster a round: its files go with it, so that every round finds memory that the host has backed
                // already.
                let cluster = Cluster::start()?;
                let topic = format!("bench-{acks}-{round}");
                clients::run_script("create_topic.py", &[&cluster.bootstrap(), &topic, &PARTITIONS.to_string()])?;
                let machine = report::mib_per_s(bytes, baseline::write_over_loopback(bytes)?);
                let ours = report::mib_per_s(bytes, produce(&cluster.bootstrap(), &topic, acks, records)?);
                produced.push(Round { ours, machine });
                if acks == "all" {
                    let machine = report::mib_per_s(bytes, baseline::write_over_loopback(bytes)?);
                    let ours = report::mib_per_s(bytes, consume(&cluster.bootstrap(), &topic, records)?);
                    consumed.push(Round { ours, machine });
                }
            }
            report::row(&format!("produce acks={acks}, 1 KB, RF 3"), "loopback TCP", "MiB/s", &produced);
            if !consumed.is_empty() {
                report::row("consume, 1 KB", "loopback TCP", "MiB/s", &consumed);
            }
        }
        Ok(())
    }

    fn produce(bootstrap: &str, topic: &str, acks: &str, records: usize) -> Result<Duration> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("acks", acks)
            .set("linger.ms", "5")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.kbytes", "1048576")
            .create()?;
        let value = vec![b'x'; RECORD_BYTES];
        let started = Instant::now();
        for number in 0..records {
            let partition = i32::try_from(number)? % PARTITIONS;
            loop {
                let record = BaseRecord::<(), [u8]>::to(topic).payload(&value).partition(partition);
                match producer.send(record) {
                    Ok(()) => break,
                    Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                        producer.poll(Duration::from_millis(5));
                    }
                    Err((error, _)) => return Err(error.into()),
                }
            }
            if number % 1_000 == 0 {
                producer.poll(Duration::ZERO);
            }
        }
        producer.flush(PATIENCE)?;
        ensure!(producer.in_flight_count() == 0, "not all records were acknowledged");
        Ok(started.elapsed())
    }

    fn consume(bootstrap: &str, topic: &str, records: usize) -> Result<Duration> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "unused")
            .set("enable.auto.commit", "false")
            .set("fetch.message.max.bytes", "4000000")
            .set("queued.min.messages", "1000000")
            .set("queued.max.messages.kbytes", "500000")
            .create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        let started = Instant::now();
        for seen in 0..records {
            let message = consumer
                .poll(PATIENCE)
                .with_context(|| format!("{seen} of {records} records after {PATIENCE:?}"))?
                .map_err(|error| anyhow!(error))?;
            if message.payload_len() != RECORD_BYTES {
                bail!("a record of {} bytes", message.payload_len());
            }
        }
        Ok(started.elapsed())
    }
}
