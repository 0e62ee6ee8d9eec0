//! The first start of an empty disk: asks the other coordinators, waits between the rounds, and stores the list of
//! voters. [`ottla_quorum_node::first_start`] decides.

use std::time::Duration;

use futures::future::join_all;
use ottla_consensus::{LogStore as _, Membership};
use ottla_metrics::Reminder;
use ottla_quorum_node::first_start::{self, Begin, FirstStart, Formed, NotYet, ROUND_PAUSE, Step, Way};
use ottla_quorum_node::identity::{self, Addresses};
use ottla_rpc::coordinators::describe;
use tokio::sync::mpsc;
use tonic::transport::Channel;

use crate::error::CoordinatorError;
use crate::identify::identify;
use crate::rocksdb_store::{Identity, RocksDbStore};
use crate::shared::Shared;

/// Interval of the log line while this coordinator waits.
const REMIND_AFTER: Duration = Duration::from_secs(10);

/// Waits until this disk may vote, and stores the list of voters.
pub async fn form(
    way: Way,
    shared: &Shared,
    connect_lists: &mut mpsc::Receiver<Vec<String>>,
    store: &mut RocksDbStore,
    identity: &mut Identity,
) -> Result<(), CoordinatorError> {
    if way == (Way::Listed { bootstrap: true }) {
        tracing::warn!("bootstrap: this empty disk votes without asking the others");
    }
    let formed = match first_start::begin(way, &shared.own_identity()) {
        Begin::Votes(voters) => Formed::First(voters),
        Begin::Asks(start) => agree(shared, start).await?,
        Begin::WaitsForList => {
            let listed = wait_to_be_told(shared, connect_lists).await?;
            shared.set_voters(listed);
            agree(shared, FirstStart::new(&shared.own_identity())).await?
        }
    };
    identity.voters = match formed {
        Formed::First(voters) => {
            let membership = Membership::new(voters.keys().copied())?;
            // The membership first: after a crash in between the disk asks again, and has still not voted.
            store.bootstrap(membership.to_conf_state()).map_err(CoordinatorError::Store)?;
            voters
        }
        // The membership comes with the quorum's state.
        Formed::Joins(members) => members,
    };
    store.disk().write_identity(identity)?;
    Ok(())
}

/// Asks until all agree.
async fn agree(shared: &Shared, mut start: FirstStart) -> Result<Formed, CoordinatorError> {
    let mut channels: Vec<Channel> = Vec::new();
    let mut reminder = Reminder::new(REMIND_AFTER);
    loop {
        for peer in &start.asked()[channels.len()..] {
            channels.push(shared.channel(&peer.address)?);
        }
        let answers = join_all(channels.iter().map(|channel| identify(shared, channel.clone()))).await;
        let answers = answers.into_iter().map(|answer| answer.map_err(|status| describe(&status).to_string()));
        match shared.first_start_round(&mut start, answers)? {
            Step::Formed(formed) => return Ok(formed),
            Step::AskAgain { pause, reason } => {
                remind(&mut reminder, &reason.to_string());
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Waits for a list of addresses behind which this coordinator and others, distinct and fresh, are found.
async fn wait_to_be_told(
    shared: &Shared,
    connect_lists: &mut mpsc::Receiver<Vec<String>>,
) -> Result<Addresses, CoordinatorError> {
    tracing::info!(
        "no list of servers is configured: waiting for the first broker to hand over its coordinator.connect"
    );
    let mut reminder = Reminder::new(REMIND_AFTER);
    loop {
        let Some(addresses) = connect_lists.recv().await else { return Err(CoordinatorError::Stopped) };
        let answers = join_all(addresses.iter().map(|address| ask_at(shared, address))).await;
        match first_start::members_behind(&shared.own_identity(), addresses.iter().cloned().zip(answers)) {
            Ok(listed) => {
                tracing::info!("the quorum is {}", identity::names(&listed));
                return Ok(listed);
            }
            Err(NotYet::Conflict(conflict)) => return Err(conflict.into()),
            Err(NotYet::Waiting(why)) => {
                remind(&mut reminder, &format!("first start by the list {}: {why}", addresses.join(",")));
            }
        }
        tokio::time::sleep(ROUND_PAUSE).await;
    }
}

async fn ask_at(shared: &Shared, address: &str) -> Result<identity::Identified, String> {
    let channel = shared.channel(address).map_err(|error| error.to_string())?;
    identify(shared, channel).await.map_err(|status| describe(&status).to_string())
}

fn remind(reminder: &mut Reminder, what: &str) {
    reminder.run(what, |_| tracing::info!("{what}"));
}
