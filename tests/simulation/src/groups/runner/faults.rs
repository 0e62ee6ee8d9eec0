//! What goes wrong with brokers, logs, networks and members.

use ottla_group_coordinator::Request;
use ottla_group_coordinator::config::GroupOverrides;
use ottla_group_coordinator::request::{LeaveGroup, LeavingMember};
use ottla_model::MemberId;

use super::{BROKERS, Run};
use crate::coordinator_log::{LogWorld as _, Weather};
use crate::groups::world::{Client, Kind};
use crate::invariants::Violation;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Weather,
    KillBroker,
    PauseBroker,
    HoldPartition,
    MoveLeader,
    ShrinkIsr,
    RefuseAppends,
    FailReads,
    CrashMember,
    PauseMember,
    LeaveMember,
    RemoveMembers,
    AddMember,
    AddPartition,
    DeleteTopic,
    MoveRacks,
    Compact,
    ChangeConfig,
}

pub(super) const FAULTS: &[Fault] = &[
    Fault::Weather,
    Fault::KillBroker,
    Fault::PauseBroker,
    Fault::HoldPartition,
    Fault::MoveLeader,
    Fault::ShrinkIsr,
    Fault::RefuseAppends,
    Fault::FailReads,
    Fault::CrashMember,
    Fault::PauseMember,
    Fault::LeaveMember,
    Fault::RemoveMembers,
    Fault::AddMember,
    Fault::AddPartition,
    Fault::DeleteTopic,
    Fault::MoveRacks,
    Fault::Compact,
    Fault::ChangeConfig,
];

impl Run<'_> {
    fn members(&self) -> Vec<u32> {
        self.world.clients.iter().filter(|(_, client)| client.is_member()).map(|(id, _)| *id).collect()
    }

    /// Who takes a member's place, if somebody does: with its instance id, where it is static.
    fn replace(&mut self, id: u32) {
        let Some(client) = self.world.clients.get(&id) else { return };
        let group = client.group().clone();
        let former = match &client.kind {
            Kind::Classic(member) => member.behaviour.clone(),
            Kind::Consumer(member) => member.behaviour.clone(),
            Kind::Admin(_) | Kind::Script { .. } => return,
        };
        if let Some(plan) = self.groups.iter().find(|plan| plan.id == group).cloned()
            && self.random.percent(80)
        {
            // A process that keeps its member id joins again with it.
            let id = match &client.kind {
                Kind::Consumer(member) if self.random.percent(20) => Some(member.member.clone()),
                _ => None,
            };
            self.add_member(&plan, Some(&former), id);
        }
    }

    /// An operator removes members in one request: static ones by their instance ids.
    fn remove_members(&mut self, members: &[u32]) -> Result<(), Violation> {
        let Some(plan) = self.random.pick(&self.groups).cloned() else { return Ok(()) };
        let mut leaving = Vec::new();
        for id in members {
            let Some(client) = self.world.clients.get(id).filter(|client| *client.group() == plan.id) else { continue };
            if leaving.len() < 3 && self.random.percent(50) {
                let (member, instance) = match &client.kind {
                    Kind::Classic(member) => (member.member.clone(), member.behaviour.instance.clone()),
                    Kind::Consumer(member) => (member.member.clone(), member.behaviour.instance.clone()),
                    Kind::Admin(_) | Kind::Script { .. } => continue,
                };
                let member = if instance.is_some() { MemberId::new("") } else { member };
                leaving.push(LeavingMember { member, instance, reason: None });
            }
        }
        let is_admin = |client: &Client| matches!(client.kind, Kind::Admin(_)) && *client.group() == plan.id;
        let admin = self.world.clients.iter().find(|(_, client)| is_admin(client)).map(|(id, _)| *id);
        let Some(admin) = admin.filter(|_| !leaving.is_empty()) else { return Ok(()) };
        self.world.note(format_args!("{leaving:?} are removed from {}", plan.id));
        let request = Request::LeaveGroup(LeaveGroup { group: plan.id, members: leaving });
        self.world.with_client(admin, |_, turn| {
            turn.send(request);
        })
    }

    /// Limits that some requests pass, and other times for one group.
    fn change_config(&mut self) {
        let mut config = self.config.clone();
        match self.random.below(4) {
            0 => config.max_batch_bytes = i32::try_from(self.random.between(300, 3_000)).unwrap_or(1_000),
            1 => {
                config.group_max_size = i32::try_from(self.random.between(1, 5)).unwrap_or(1);
                config.consumer_max_size = config.group_max_size;
            }
            2 => {
                let session = i32::try_from(self.random.between(300, 3_000)).unwrap_or(1_000);
                let overrides = GroupOverrides {
                    consumer_session_timeout_ms: Some(session),
                    consumer_heartbeat_interval_ms: Some(session / 4),
                };
                config.overrides = self.groups.iter().take(1).map(|plan| (plan.id.clone(), overrides)).collect();
            }
            _ => {}
        }
        self.world.note(format_args!("{config:?}"));
        self.world.configure(config);
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        let outage = self.random.between(self.outage_ms.0, self.outage_ms.1);
        let broker = i32::try_from(self.random.between(1, BROKERS.unsigned_abs().into())).unwrap_or(1);
        let partition = i32::try_from(self.random.below(self.world.logs.partitions.len() as u64)).unwrap_or(0);
        let leader = self.world.leader_of(partition);
        let members = self.members();
        let member = self.random.pick(&members).copied();
        match (fault, member) {
            (Fault::Weather, _) => {
                self.world.weather = if self.random.percent(30) {
                    Weather::CALM
                } else {
                    Weather {
                        latency_us: (50, self.random.between(500, 100_000)),
                        lost_ppm: u32::try_from(self.random.between(0, 100_000)).unwrap_or(0),
                        replication_us: (200, self.random.between(1_000, 800_000)),
                        image_lag_us: (500, self.random.between(1_000, 600_000)),
                        load_us: (50, self.random.between(500, 300_000)),
                    }
                };
                let weather = self.world.weather;
                self.world.note(format_args!("{weather:?}"));
            }
            (Fault::KillBroker, _) => {
                let id = leader.filter(|_| self.random.percent(70)).unwrap_or(broker);
                if self.world.brokers.get(&id).is_some_and(|broker| broker.is_running) {
                    self.world.kill_broker(id);
                    self.world.start_broker_after_ms(id, outage);
                }
            }
            (Fault::PauseBroker, _) => {
                if let Some(id) = leader.filter(|id| !self.world.is_broker_paused(*id)) {
                    self.world.pause_broker(id, outage);
                    // Mostly it is fenced meanwhile.
                    if self.random.percent(70) {
                        self.world.elect(partition, Some(id));
                    }
                }
            }
            (Fault::HoldPartition, _) => {
                if let Some(id) = leader {
                    let known_after = self.random.between(0, 2 * outage);
                    self.world.hold_partition(id, partition, outage, known_after);
                    // Its replicas give up their places once the disk is known not to answer.
                    if known_after < outage && self.random.percent(70) {
                        self.world.elect(partition, Some(id));
                    }
                }
            }
            (Fault::MoveLeader, _) => self.world.elect(partition, leader),
            (Fault::ShrinkIsr, _) => {
                if leader != Some(broker) {
                    self.world.shrink_isr(partition, broker, outage);
                }
            }
            (Fault::RefuseAppends, _) => {
                self.world.refused_ppm = u32::try_from(self.random.below(150_000)).unwrap_or(0);
                if self.random.percent(50) {
                    self.world.refused_ppm = 0;
                }
            }
            (Fault::FailReads, _) => {
                self.world.unreadable_ppm = u32::try_from(self.random.below(400_000)).unwrap_or(0);
                if self.random.percent(50) {
                    self.world.unreadable_ppm = 0;
                }
            }
            (Fault::CrashMember, Some(id)) => {
                self.world.crash_client(id);
                self.replace(id);
            }
            (Fault::PauseMember, Some(id)) => {
                if !self.world.is_client_paused(id) {
                    self.world.pause_client(id, outage);
                }
            }
            (Fault::LeaveMember, Some(id)) => {
                if !self.world.is_client_paused(id) {
                    self.world.leave(id)?;
                    self.replace(id);
                }
            }
            (Fault::AddMember, _) => {
                if members.len() < 12
                    && let Some(plan) = self.random.pick(&self.groups).cloned()
                {
                    self.add_member(&plan, None, None);
                }
            }
            (Fault::AddPartition, _) => {
                let names = self.world.topics.all_names();
                if let Some(name) = self.random.pick(&names) {
                    self.world.add_partition(name);
                }
            }
            (Fault::RemoveMembers, _) => self.remove_members(&members)?,
            (Fault::DeleteTopic, _) => {
                let names = self.world.topics.all_names();
                if let Some(name) = self.random.pick(&names).cloned() {
                    self.world.delete_topic(&name);
                    let partitions = i32::try_from(self.random.between(1, 6)).unwrap_or(1);
                    let after = if self.random.percent(40) { 0 } else { outage };
                    if self.random.percent(80) || names.len() == 1 {
                        self.world.create_topic_after_ms(name, partitions, after);
                    }
                }
            }
            (Fault::MoveRacks, _) => self.world.topics.move_racks(),
            (Fault::Compact, _) => {
                let keeps_tombstones = self.random.percent(50);
                self.world.compact(partition, broker, keeps_tombstones)?;
            }
            (Fault::ChangeConfig, _) => self.change_config(),
            (Fault::CrashMember | Fault::PauseMember | Fault::LeaveMember, None) => {}
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) {
        self.world.note(format_args!("faults are over"));
        self.world.weather = Weather::CALM;
        self.world.refused_ppm = 0;
        self.world.unreadable_ppm = 0;
        self.world.configure(self.config.clone());
        for id in 1..=BROKERS {
            self.world.start_broker_after_ms(id, 0);
        }
        for client in self.world.clients.values_mut() {
            match &mut client.kind {
                // One that takes longer than its rebalance timeout is thrown out again and again.
                Kind::Classic(member) => member.behaviour.revocation_ms = (0, 30),
                Kind::Consumer(member) => member.behaviour.revocation_ms = (0, 30),
                Kind::Admin(admin) => admin.meddles = false,
                Kind::Script { .. } => {}
            }
        }
    }
}
