//! Topics and the number of their partitions.

use std::collections::HashMap;
use std::sync::Arc;

use ottla_metadata::controller::{CreatePartitions, CreateTopics, DeleteTopics, NewPartitions, NewTopic, TopicRef};
use ottla_metadata::image::{Image, TopicImage};
use ottla_model::{BrokerId, PartitionId};
use ottla_rpc::admin::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest,
    DeleteTopicResponse, DescribeTopicRequest, DescribeTopicResponse, ListTopicsRequest, ListTopicsResponse, Replicas,
    Topic, TopicSummary,
};
use tonic::Status;

use super::decisions::{key, only_outcome};
use super::errors::{invalid, of_kafka};
use super::paging::{Mask, Masked as _, Page, masked, page, token};
use super::{AdminService, count, partitions};

masked!(TopicSummary: name, topic_id, partitions, replication_factor);

fn brokers(replicas: Replicas) -> Vec<BrokerId> {
    replicas.brokers.into_iter().map(BrokerId).collect()
}

fn described(image: &Image, topic: &TopicImage, page: &Page) -> Result<(Topic, String), Status> {
    let after = match &page.after {
        None => -1,
        Some(text) => text.parse().map_err(|_| invalid("INVALID_PAGE_TOKEN", "page_token is of another list"))?,
    };
    let listed = topic.partitions().skip_while(|(partition, _)| partition.0 <= after);
    let mut shown: Vec<_> = listed.take(page.size + 1).map(|(id, state)| partitions::shown("", id, state)).collect();
    let mut next = String::new();
    if shown.len() > page.size {
        shown.truncate(page.size);
        next = shown.last().map(|last| token(&last.partition.to_string())).unwrap_or_default();
    }
    let topic = Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.to_string(),
        partitions: shown,
        configs: image.topic_overrides(topic.name.as_str()).into_iter().collect::<HashMap<_, _>>(),
    };
    Ok((topic, next))
}

/// Kafka wants −1 where there are assignments.
fn or_one(number: i32, has_assignments: bool) -> i32 {
    match number {
        0 if has_assignments => -1,
        0 => 1,
        number => number,
    }
}

impl AdminService {
    pub(super) async fn create(&self, request: CreateTopicRequest) -> Result<CreateTopicResponse, Status> {
        let key = key("CreateTopic", &request.name, &request.request_id)?;
        let has_assignments = !request.assignments.is_empty();
        let new = NewTopic {
            name: request.name.clone(),
            partitions: or_one(request.partitions, has_assignments),
            replication_factor: or_one(request.replication_factor, has_assignments),
            grows_to: 0,
            assignments: (0..).map(PartitionId).zip(request.assignments.into_iter().map(brokers)).collect(),
            configs: request.configs.into_iter().map(|(name, value)| (name, Some(value))).collect(),
        };
        let create = CreateTopics {
            topics: vec![new],
            validate_only: request.validate_only,
            default_partitions: 1,
            default_replication_factor: 1,
        };
        let (revision, _) = only_outcome(self.decide(create, Some(key)).await?)?;
        if request.validate_only {
            return Ok(CreateTopicResponse { topic: None, revision: revision.0 });
        }
        // The topic exists in any case: a coordinator that cannot read it back leaves it out.
        let view = self.view_of(revision).await.ok();
        let topic = view.as_ref().and_then(|view| {
            let topic = view.image.topic(&request.name)?;
            Some(described(&view.image, topic, &Page::new(0, "").ok()?).ok()?.0)
        });
        let read = view.map_or(0, |view| view.revision.0);
        Ok(CreateTopicResponse { topic, revision: if revision.0 == 0 { read } else { revision.0 } })
    }

    pub(super) async fn delete(&self, request: DeleteTopicRequest) -> Result<DeleteTopicResponse, Status> {
        let key = key("DeleteTopic", &request.name, &request.request_id)?;
        let delete = DeleteTopics { topics: vec![TopicRef::Name(request.name)] };
        let (revision, _) = only_outcome(self.decide(delete, Some(key)).await?)?;
        Ok(DeleteTopicResponse { revision: revision.0 })
    }

    pub(super) fn list(&self, request: ListTopicsRequest) -> Result<ListTopicsResponse, Status> {
        let asked = Page::new(request.page_size, &request.page_token)?;
        let mask = Mask::new(request.read_mask, TopicSummary::FIELDS)?;
        let view = self.view()?;
        let from = asked.after.as_deref().unwrap_or_default();
        let prefix = request.prefix.as_str();
        let named = view.image.topics_from(from.max(prefix));
        let named = named.skip_while(|topic| asked.after.as_deref() == Some(topic.name.as_str()));
        let named = named.take_while(|topic| topic.name.as_str().starts_with(prefix));
        let (topics, next_page_token) = page(&asked, named, |topic: &&Arc<TopicImage>| topic.name.to_string());
        let summary = |topic: &Arc<TopicImage>| {
            let mut summary = TopicSummary {
                name: topic.name.to_string(),
                topic_id: topic.id.to_string(),
                partitions: count(topic.partition_count()),
                replication_factor: count(topic.replication_factor()),
            };
            summary.keep(&mask);
            summary
        };
        let topics = topics.into_iter().map(summary).collect();
        Ok(ListTopicsResponse { topics, revision: view.revision.0, next_page_token })
    }

    pub(super) fn describe(&self, request: &DescribeTopicRequest) -> Result<DescribeTopicResponse, Status> {
        let asked = Page::new(request.page_size, &request.page_token)?;
        let view = self.view()?;
        let found = view.image.topic(&request.name).ok_or_else(|| no_topic(&request.name))?;
        let (topic, next_page_token) = described(&view.image, found, &asked)?;
        Ok(DescribeTopicResponse { topic: Some(topic), revision: view.revision.0, next_page_token })
    }

    pub(super) async fn add_partitions(
        &self,
        request: CreatePartitionsRequest,
    ) -> Result<CreatePartitionsResponse, Status> {
        let key = key("CreatePartitions", &request.topic, &request.request_id)?;
        let new = NewPartitions {
            topic: request.topic,
            total: request.total,
            assignments: (!request.assignments.is_empty())
                .then(|| request.assignments.into_iter().map(brokers).collect()),
        };
        let create = CreatePartitions { topics: vec![new], validate_only: request.validate_only };
        let (revision, _) = only_outcome(self.decide(create, Some(key)).await?)?;
        Ok(CreatePartitionsResponse { revision: revision.0 })
    }
}

pub fn no_topic(name: &str) -> Status {
    of_kafka(ottla_model::ErrorCode::UnknownTopicOrPartition, &format!("no topic {name}"))
}
