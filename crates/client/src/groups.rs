//! Administration of groups: list, describe and delete.

use std::collections::BTreeMap;

use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, ListGroupsRequest,
    consumer_group_describe_response as consumer, describe_groups_response as classic,
};
use ottla_model::{ErrorCode, TopicPartition};
use ottla_protocol::Api;

use crate::cluster::Client;
use crate::convert::{checked, error_of, group_id, partition, text};
use crate::error::{ClientError, Outcome};
use crate::membership::assigned;
use crate::metadata::BrokerAddress;

/// A group as ListGroups shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedGroup {
    pub group: String,
    /// `consumer` for groups of consumers; empty for one that only ever committed offsets.
    pub protocol_type: String,
    /// In Kafka's spelling (`Stable`); empty if the broker does not send it.
    pub state: String,
    /// `classic` or `consumer`, in the broker's spelling; empty if the broker does not send it.
    pub kind: String,
}

/// A group with its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupDescription {
    pub group: String,
    pub coordinator: BrokerAddress,
    /// As Kafka spells it (`Stable`).
    pub state: String,
    /// Whether it is one of KIP-848.
    pub is_consumer_protocol: bool,
    /// The assignor, or the protocol that the members of a classic group agreed on; empty if there is none.
    pub assignor: String,
    /// −1 in classic groups.
    pub group_epoch: i32,
    /// −1 in classic groups.
    pub assignment_epoch: i32,
    pub members: Vec<GroupMember>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupMember {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    /// As brokers show it: `/10.0.0.7`.
    pub host: String,
    pub assignment: Vec<TopicPartition>,
    /// The target assignment; none in classic groups.
    pub target_assignment: Option<Vec<TopicPartition>>,
    /// None in classic groups.
    pub epoch: Option<i32>,
    /// Whether the member uses the consumer protocol: false for a classic member of a KIP-848 group, none in classic
    /// groups and if the broker does not send it.
    pub is_upgraded: Option<bool>,
}

impl Client {
    /// All groups, by name, of which the brokers know; with states or types, only those. Names are Kafka's (`Stable`,
    /// `classic`), in any case.
    pub async fn list_groups(&self, states: &[String], types: &[String]) -> Result<Vec<ListedGroup>, ClientError> {
        let request = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| text(state)).collect())
            .with_types_filter(types.iter().map(|kind| text(kind)).collect());
        let view = self.retry(None, |_| true, || self.metadata(Some(&[]))).await?;
        let mut groups = BTreeMap::new();
        for broker in view.brokers.keys() {
            let attempt = || async {
                let response = self.link_to(*broker).await?.call(&request).await?;
                checked(response.error_code)?;
                Ok(response.groups)
            };
            for group in self.retry(None, |_| true, attempt).await? {
                let group = ListedGroup {
                    group: group.group_id.0.to_string(),
                    protocol_type: group.protocol_type.to_string(),
                    state: group.group_state.to_string(),
                    kind: group.group_type.to_string(),
                };
                groups.insert(group.group.clone(), group);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// A group with its members, with either protocol. For a group that does not exist the result is
    /// GROUP_ID_NOT_FOUND, or, from older brokers, the state `Dead`.
    pub async fn describe_group(&self, group: &str) -> Result<GroupDescription, ClientError> {
        let attempt = |link: std::sync::Arc<crate::cluster::Link>| async move {
            let coordinator = self.group_coordinator(group).await?;
            if link.version(Api::ConsumerGroupDescribe).is_ok() {
                let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
                let response = link.call(&request).await?;
                let found = response.groups.into_iter().next();
                let found = found.ok_or(ClientError::Incomplete(Api::ConsumerGroupDescribe))?;
                match error_of(found.error_code) {
                    ErrorCode::None => return consumer_description(found, coordinator),
                    // Not one of KIP-848; perhaps a classic one.
                    ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion => {}
                    code => return Err(refused(code, found.error_message)),
                }
            }
            let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
            let response = link.call(&request).await?;
            let found = response.groups.into_iter().next().ok_or(ClientError::Incomplete(Api::DescribeGroups))?;
            match error_of(found.error_code) {
                ErrorCode::None => classic_description(found, coordinator),
                code => Err(refused(code, found.error_message)),
            }
        };
        self.at_group_coordinator(group, |_| true, attempt).await
    }

    /// Deletes a group without members, with its offsets.
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let request = &DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let attempt = |link: std::sync::Arc<crate::cluster::Link>| async move {
            let response = link.call(request).await?;
            let result = response.results.into_iter().next().ok_or(ClientError::Incomplete(Api::DeleteGroups))?;
            checked(result.error_code)
        };
        self.at_group_coordinator(group, |error| error.outcome() != Outcome::Unknown, attempt).await
    }
}

fn refused(code: ErrorCode, message: Option<kafka_protocol::protocol::StrBytes>) -> ClientError {
    ClientError::Refused { code, message: message.map(|message| message.to_string()) }
}

fn classic_description(
    found: classic::DescribedGroup,
    coordinator: BrokerAddress,
) -> Result<GroupDescription, ClientError> {
    let members = found.members.into_iter().map(|member| {
        Ok(GroupMember {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.map(|instance| instance.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assignment: assigned(&member.member_assignment)?,
            target_assignment: None,
            epoch: None,
            is_upgraded: None,
        })
    });
    Ok(GroupDescription {
        group: found.group_id.0.to_string(),
        coordinator,
        state: found.group_state.to_string(),
        is_consumer_protocol: false,
        assignor: found.protocol_data.to_string(),
        group_epoch: -1,
        assignment_epoch: -1,
        members: members.collect::<Result<_, ClientError>>()?,
    })
}

fn consumer_description(
    found: consumer::DescribedGroup,
    coordinator: BrokerAddress,
) -> Result<GroupDescription, ClientError> {
    let partitions = |assignment: consumer::Assignment| {
        let topics = assignment.topic_partitions.into_iter();
        let all = topics.flat_map(|topic| topic.partitions.into_iter().map(move |at| (topic.topic_name.clone(), at)));
        all.map(|(name, at)| partition(Api::ConsumerGroupDescribe, &name.0, at)).collect::<Result<Vec<_>, _>>()
    };
    let members = found.members.into_iter().map(|member| {
        Ok(GroupMember {
            id: member.member_id.to_string(),
            instance: member.instance_id.map(|instance| instance.to_string()),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            assignment: partitions(member.assignment)?,
            target_assignment: Some(partitions(member.target_assignment)?),
            epoch: Some(member.member_epoch),
            // 1 is the consumer protocol, 0 the classic one, -1 an older broker's silence.
            is_upgraded: (member.member_type >= 0).then_some(member.member_type == 1),
        })
    });
    Ok(GroupDescription {
        group: found.group_id.0.to_string(),
        coordinator,
        state: found.group_state.to_string(),
        is_consumer_protocol: true,
        assignor: found.assignor_name.to_string(),
        group_epoch: found.group_epoch,
        assignment_epoch: found.assignment_epoch,
        members: members.collect::<Result<_, ClientError>>()?,
    })
}
