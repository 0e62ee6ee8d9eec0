//! What goes wrong with brokers, logs, networks and members.

use super::{BROKERS, Run};
use crate::groups::world::{Kind, Weather};
use crate::invariants::Violation;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    Weather,
    KillBroker,
    PauseBroker,
    MoveLeader,
    ShrinkIsr,
    RefuseAppends,
    FailReads,
    CrashMember,
    PauseMember,
    LeaveMember,
    AddMember,
    AddPartition,
}

pub(super) const FAULTS: &[Fault] = &[
    Fault::Weather,
    Fault::KillBroker,
    Fault::PauseBroker,
    Fault::MoveLeader,
    Fault::ShrinkIsr,
    Fault::RefuseAppends,
    Fault::FailReads,
    Fault::CrashMember,
    Fault::PauseMember,
    Fault::LeaveMember,
    Fault::AddMember,
    Fault::AddPartition,
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
            self.add_member(&plan, Some(&former));
        }
    }

    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), Violation> {
        let outage = self.random.between(self.outage_ms.0, self.outage_ms.1);
        let broker = i32::try_from(self.random.between(1, BROKERS.unsigned_abs().into())).unwrap_or(1);
        let partition = i32::try_from(self.random.below(self.world.partitions.len() as u64)).unwrap_or(0);
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
                    self.add_member(&plan, None);
                }
            }
            (Fault::AddPartition, _) => {
                let names = self.world.topics.all_names();
                if let Some(name) = self.random.pick(&names) {
                    self.world.add_partition(name);
                }
            }
            (Fault::CrashMember | Fault::PauseMember | Fault::LeaveMember, None) => {}
        }
        Ok(())
    }

    pub(super) fn heal(&mut self) {
        self.world.note(format_args!("faults are over"));
        self.world.weather = Weather::CALM;
        self.world.refused_ppm = 0;
        self.world.unreadable_ppm = 0;
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
