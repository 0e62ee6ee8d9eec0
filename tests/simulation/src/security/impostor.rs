//! A client that knows what everybody may know of brokers (ids, epochs, incarnations), and sends requests in their
//! names: without the key of the incarnation, or with another one.

use std::sync::Arc;

use ottla_metadata::controller::{
    AllocateProducerIds, AlterPartition, AlterPartitions, ControlledShutdown, ResignLeadership, ResignReason,
};
use ottla_metadata::{Answer, Image, Request};
use ottla_model::IncarnationKey;

use crate::clock::SimTime;
use crate::message::{CallId, Message};
use crate::network::NodeId;
use crate::outbox::Outbox;
use crate::random::Random;

/// Between two attempts.
const PAUSE_MS: (u64, u64) = (100, 1_500);

pub struct Impostor {
    coordinators: Vec<u64>,
    random: Random,
    next_at: SimTime,
    next_call: u64,
}

impl Impostor {
    pub fn new(coordinators: Vec<u64>, random: Random) -> Self {
        Self { coordinators, random, next_at: SimTime(0), next_call: 0 }
    }

    pub fn tick(&mut self, at: SimTime, image: &Image, out: &mut Outbox) {
        if at < self.next_at {
            return;
        }
        self.next_at = at.plus_ms(self.random.between(PAUSE_MS.0, PAUSE_MS.1));
        let Some(request) = self.forge(image) else { return };
        let request = if self.random.percent(50) {
            let half = self.random.bytes_16();
            let key = IncarnationKey::new(std::array::from_fn(|place| half[place % half.len()]));
            Request::Proved(key, Box::new(request))
        } else {
            request
        };
        out.note(format_args!("forges {request:?}"));
        self.next_call += 1;
        let Some(coordinator) = self.random.pick(&self.coordinators) else { return };
        let message = Message::Cluster { call: CallId(self.next_call), request: Arc::new(request) };
        out.send(NodeId::Coordinator(*coordinator), message);
    }

    fn forge(&mut self, image: &Image) -> Option<Request> {
        let brokers: Vec<_> = image.brokers().cloned().collect();
        let victim = self.random.pick(&brokers)?;
        let (broker, epoch, incarnation) = (victim.id, victim.epoch, victim.incarnation);
        let hosted: Vec<_> = image.hosted_by(broker).collect();
        Some(match self.random.below(4) {
            0 => Request::AllocateProducerIds(AllocateProducerIds { broker, epoch }),
            1 => Request::ControlledShutdown(ControlledShutdown { broker, epoch, incarnation }),
            2 => {
                let reason = ResignReason::Lost;
                Request::ResignLeadership(ResignLeadership { broker, epoch, partitions: hosted, reason })
            }
            _ => {
                let led = hosted.into_iter().find_map(|id| {
                    let state = image.partition(id).filter(|state| state.leader == broker)?;
                    let isr = state.isr.iter().filter(|member| member.broker == broker).copied().collect();
                    let (leader_epoch, partition_epoch) = (state.leader_epoch, state.partition_epoch);
                    Some(AlterPartition { partition: id, leader_epoch, partition_epoch, isr })
                });
                Request::AlterPartitions(AlterPartitions { broker, epoch, partitions: vec![led?] })
            }
        })
    }

    /// Whether a request was decided that its broker had not sent.
    pub fn has_got_through(answer: &Answer) -> bool {
        match answer {
            Answer::AlterPartitions(altered) => altered.error.is_ok(),
            Answer::ResignLeadership(resigned) => resigned.error.is_ok(),
            Answer::ControlledShutdown(progress) => progress.error.is_ok(),
            Answer::AllocateProducerIds(allocated) => allocated.is_ok(),
            _ => false,
        }
    }
}
