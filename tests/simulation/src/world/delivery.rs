//! Messages and dials on their way, and what a turn of a process leads to.

use ottla_protocol::record_batch::BatchHeader;

use super::*;

impl World {
    pub(super) fn deliver(
        &mut self,
        from: NodeId,
        to: NodeId,
        to_life: u32,
        message: Message,
    ) -> Result<(), Violation> {
        if to_life != self.life(to) || !self.is_running(to) {
            return Ok(());
        }
        *self.deliveries.entry(message.name()).or_default() += 1;
        self.trace.message(self.now, format_args!("{to} <- {from} {}", message.name()));
        let mut out = Outbox::default();
        let mut observed = Vec::new();
        match to {
            NodeId::Coordinator(id) => {
                if let Some(coordinator) = self.coordinators.get_mut(&id) {
                    observed = coordinator.receive(self.now, from, message, &mut out).map_err(broken)?;
                }
            }
            NodeId::Broker(id) => {
                let message = self.confirmed(from, message);
                if let Message::BeatAnswer { answer: Some(answer), .. } = &message {
                    self.heard(id, answer.committed_revision);
                }
                self.log_in_first(id, from, &message)?;
                if let Some(broker) = self.brokers.get_mut(&id) {
                    broker.receive(self.now, from, message, &mut out);
                }
            }
            // The client that creates and deletes topics.
            NodeId::Client(0) => self.admin_answered(message),
            NodeId::Client(id) => self.client_receives(id, from, message, &mut out)?,
        }
        self.finish_turn(to, out, observed)
    }

    /// A batch, with what its transaction's coordinator says as it arrives.
    fn confirmed(&self, from: NodeId, message: Message) -> Message {
        match (message, from) {
            (Message::Produce { call, mut produce }, NodeId::Client(id)) => {
                let header = BatchHeader::parse(&produce.batch);
                let coordinator = self.transactors.get(&id);
                produce.is_confirmed =
                    coordinator.zip(header.ok()).is_some_and(|(coordinator, header)| coordinator.confirms(&header));
                Message::Produce { call, produce }
            }
            (message, _) => message,
        }
    }

    pub(super) fn client_receives(
        &mut self,
        id: u32,
        from: NodeId,
        message: Message,
        out: &mut Outbox,
    ) -> Result<(), Violation> {
        if to_script(id) {
            self.inbox.push((from, message));
            return Ok(());
        }
        if self.security_receives(id, from, &message, out)? {
            return Ok(());
        }
        let mut seen = Vec::new();
        if let Some(producer) = self.producers.get_mut(&id) {
            match (message, from) {
                (Message::ProduceAnswer { call, answer }, _) => {
                    seen.extend(producer.answered(self.now, call, &answer, out));
                }
                (Message::ConnectionLost, NodeId::Broker(broker)) => producer.connection_lost(self.now, broker),
                _ => {}
            }
        } else if let Some(consumer) = self.consumers.get_mut(&id) {
            match (message, from) {
                (Message::FetchAnswer { call, partitions, .. }, _) => {
                    seen.extend(consumer.answered(self.now, call, &partitions));
                }
                (Message::ConnectionLost, NodeId::Broker(broker)) => consumer.connection_lost(self.now, broker),
                _ => {}
            }
        } else if let Some(transactor) = self.transactors.get_mut(&id) {
            match (message, from) {
                (Message::ProduceAnswer { call, answer }, _) => {
                    seen.extend(transactor.answered(self.now, call, &answer, out));
                }
                (Message::ConnectionLost, NodeId::Broker(broker)) => transactor.connection_lost(self.now, broker),
                _ => {}
            }
        }
        for seen in &seen {
            self.invariants.seen(seen)?;
        }
        Ok(())
    }

    pub fn send(&mut self, from: NodeId, to: NodeId, message: Message) {
        let is_answered = !matches!(message, Message::ConnectionLost);
        if !self.is_running(to) {
            // The host refuses the connection, if it has power.
            if is_answered && !self.dark.contains(&to) && self.network.is_connected(from, to) && self.is_running(from) {
                let at = self.now.plus_us(self.network.notice_delay_us());
                let to_life = self.life(from);
                self.schedule(at, Event::Deliver { from: to, to: from, to_life, message: Message::ConnectionLost });
            }
            return;
        }
        let to_life = self.life(to);
        let arrivals = self.network.arrivals(self.now, from, to, message.delivery(from, to));
        if arrivals == [None, None] && matches!(message, Message::WatchEvent { .. }) {
            // A stream with a hole is no stream: this end notices.
            if let NodeId::Coordinator(id) = from
                && let Some(coordinator) = self.coordinators.get_mut(&id)
            {
                coordinator.watch_broken(to);
            }
        }
        let is_late = matches!(message, Message::BoundsAnswer { .. }) && self.now < self.late_bounds_until;
        let late_ms = if is_late { self.random.between(LATE_BOUNDS_MS.0, LATE_BOUNDS_MS.1) } else { 0 };
        for at in arrivals.into_iter().flatten().map(|at| at.plus_ms(late_ms)) {
            self.schedule(at, Event::Deliver { from, to, to_life, message: message.clone() });
        }
    }

    pub(super) fn finish_turn(&mut self, node: NodeId, out: Outbox, observed: Vec<Observed>) -> Result<(), Violation> {
        let Outbox { sends, probes, facts, notes, dies } = out;
        for note in &notes {
            self.trace.line(self.now, format_args!("{node} {note}"));
            if matches!(node, NodeId::Coordinator(_)) {
                self.unclean.heard(note);
            }
        }
        for fact in &facts {
            self.check_fact(node, fact)?;
        }
        match node {
            NodeId::Coordinator(id) => {
                self.check_coordinator(id, &observed)?;
                self.check_answers(id, &sends)?;
            }
            NodeId::Broker(id) if !dies => {
                self.check_image(id)?;
                self.check_fetchers(id)?;
            }
            NodeId::Broker(id) => self.check_image(id)?,
            NodeId::Client(_) => {}
        }
        for (to, message) in sends {
            self.send(node, to, message);
        }
        if let NodeId::Coordinator(id) = node {
            for probe in probes {
                self.dial(id, probe);
            }
        }
        if !dies {
            self.check_own_level(node)?;
        }
        if dies {
            self.kill(node);
            if self.restarts && !self.is_retired(node) {
                let delay = self.random.between(50, 1_500);
                self.schedule(self.now.plus_ms(delay), Event::Start(node));
            }
        }
        Ok(())
    }

    pub(super) fn dial(&mut self, from: u64, probe: Probe) {
        let (coordinator, broker) = (NodeId::Coordinator(from), NodeId::Broker(probe.broker.0));
        let life = self.life(coordinator);
        if self.network.is_connected(coordinator, broker) && !self.dark.contains(&broker) {
            let at = self.now.plus_us(self.network.notice_delay_us());
            self.schedule(at, Event::DialArrives { from, life, probe });
        } else {
            let event = dialled(from, life, &probe, ProbeResult::Unknown);
            self.schedule(self.now.plus_ms(DIAL_MS), event);
        }
    }

    pub(super) fn dial_arrives(&mut self, from: u64, life: u32, probe: Probe) {
        let broker = NodeId::Broker(probe.broker.0);
        if self.is_paused(broker) || self.dark.contains(&broker) {
            let event = dialled(from, life, &probe, ProbeResult::Unknown);
            return self.schedule(self.now.plus_ms(DIAL_MS), event);
        }
        let incarnation = self.brokers.get(&probe.broker.0).and_then(BrokerNode::incarnation);
        let result = incarnation.map_or(ProbeResult::Refused, ProbeResult::Answered);
        let at = self.now.plus_us(self.network.notice_delay_us());
        self.schedule(at, dialled(from, life, &probe, result));
    }
}

/// What no fault explains.
fn broken(error: anyhow::Error) -> Violation {
    Violation(error.to_string())
}

fn to_script(client: u32) -> bool {
    SCRIPT == NodeId::Client(client)
}

fn dialled(to: u64, life: u32, probe: &Probe, result: ProbeResult) -> Event {
    Event::Dialled { to, life, broker: probe.broker, incarnation: probe.incarnation, result }
}
