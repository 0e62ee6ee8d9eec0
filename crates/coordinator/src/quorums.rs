//! The quorums of one coordinator: that of the cluster at its root, and one for each chroot that brokers connect with.
//!
//! A quorum of a chroot has the same members, ports and settings, and a disk, a log and a cluster id of its own, below
//! `data.dir/chroots`. It begins with the first call of a broker or of another member; calls of tools begin none.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use ottla_config::CoordinatorConfig;
use ottla_model::{Chroot, Revision};
use ottla_rpc::cluster_metadata;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::Service as _;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;

use crate::access::{Access, Caller, Role};
use crate::clock::Clock;
use crate::error::CoordinatorError;
use crate::member::{self, QuorumMember};
use crate::rocksdb_store::{Disk, Identity};
use crate::service::{self, Admission};
use crate::shared::{OutgoingSecurity, Shared};
use crate::telemetry::Metrics;

/// Each has a database and a thread of its own.
const CHROOTS_MAX: usize = 16;
/// Below the data directory.
const DIRECTORY: &str = "chroots";
/// Calls that tools and people make; they begin no cluster.
const TOOLS_SERVICES: &[&str] = &["/ottla.admin.", "/grpc."];

pub struct Quorums {
    admission: Admission,
    pub access: Arc<Access>,
    config: CoordinatorConfig,
    security: OutgoingSecurity,
    clock: Clock,
    own_address: String,
    root: Quorum,
    chrooted: Mutex<BTreeMap<Chroot, Quorum>>,
    /// One chroot begins at a time.
    beginning: tokio::sync::Mutex<()>,
    begun: mpsc::Sender<QuorumMember>,
}

/// One quorum, for callers.
#[derive(Clone)]
pub struct Quorum {
    pub shared: Arc<Shared>,
    pub metrics: Arc<Metrics>,
    /// With and without Raft's streams.
    with_raft: axum::Router,
    without_raft: axum::Router,
}

impl Quorum {
    fn new(member: &QuorumMember) -> Self {
        let routes = |takes_raft| service::routes(&member.shared, takes_raft).prepare().into_axum_router();
        Self {
            shared: member.shared.clone(),
            metrics: member.metrics.clone(),
            with_raft: routes(true),
            without_raft: routes(false),
        }
    }
}

/// The quorums, the members that are to be run, and those that begin later.
type Opened = (Arc<Quorums>, Vec<QuorumMember>, mpsc::Receiver<QuorumMember>);

impl Quorums {
    /// Opens the quorums that the disk has. The members are to be run, and those that are received later.
    pub fn open(
        config: CoordinatorConfig,
        security: OutgoingSecurity,
        disk: (Disk, Identity),
        clock: Clock,
        own_address: String,
    ) -> Result<Opened, CoordinatorError> {
        let root = QuorumMember::new(config.clone(), disk, security.clone(), (None, None), clock, own_address.clone());
        let (begun, later) = mpsc::channel(1);
        let access = Access::new(config.cluster_secret.clone(), config.roles.clone(), config.binds_member_ids);
        let admission = Admission::new(access.clone());
        admission.show(&root.metrics.resources);
        let quorums = Arc::new(Self {
            root: Quorum::new(&root),
            admission,
            access,
            config,
            security,
            clock,
            own_address,
            chrooted: Mutex::default(),
            beginning: tokio::sync::Mutex::default(),
            begun,
        });
        let mut members = vec![root];
        for chroot in quorums.stored_chroots() {
            members.push(quorums.open_chroot(&chroot)?);
        }
        Ok((quorums, members, later))
    }

    pub fn root(&self) -> &Arc<Shared> {
        &self.root.shared
    }

    /// The process' own metrics are among those of the root.
    pub fn root_metrics(&self) -> &Metrics {
        &self.root.metrics
    }

    /// The root's, then those of chroots.
    pub fn all(&self) -> Vec<Quorum> {
        [self.root.clone()].into_iter().chain(self.chrooted.lock().values().cloned()).collect()
    }

    /// The newest revision that this coordinator has of any cluster. Clusters do not count alike.
    pub fn newest_revision(&self) -> Revision {
        let revisions = self.all().into_iter().filter_map(|quorum| Some(quorum.shared.formed()?.view.get().revision));
        revisions.max().unwrap_or(Revision(0))
    }

    /// The chroots whose quorums are formed, as paths of ZooKeeper's protocol begin with them; the longest first.
    pub fn formed_chroots(&self) -> Vec<String> {
        let chrooted = self.chrooted.lock();
        let formed = chrooted.iter().filter(|(_, quorum)| quorum.shared.formed().is_some());
        let mut chroots: Vec<String> = formed.map(|(chroot, _)| chroot.to_string()).collect();
        chroots.sort_by_key(|chroot| Reverse(chroot.len()));
        chroots
    }

    /// The cluster below such a chroot; empty: the root's.
    pub fn below(&self, chroot: &str) -> Option<Arc<Shared>> {
        if chroot.is_empty() {
            return Some(self.root.shared.clone());
        }
        let chrooted = self.chrooted.lock();
        let (_, quorum) = chrooted.iter().find(|(known, _)| known.to_string() == chroot)?;
        Some(quorum.shared.clone())
    }

    fn stored_chroots(&self) -> Vec<Chroot> {
        let entries = std::fs::read_dir(self.config.data_dir.join(DIRECTORY)).into_iter().flatten().flatten();
        entries.filter_map(|entry| Chroot::from_file_name(entry.file_name().to_str()?)).collect()
    }

    fn open_chroot(&self, chroot: &Chroot) -> Result<QuorumMember, CoordinatorError> {
        let config = CoordinatorConfig {
            data_dir: self.config.data_dir.join(DIRECTORY).join(chroot.to_file_name()),
            // The configured one is the root's.
            cluster_id: None,
            ..self.config.clone()
        };
        let opened = member::open_disk(&config)?;
        let place = (Some(chroot.clone()), Some(self.root.shared.clone()));
        let member =
            QuorumMember::new(config, opened, self.security.clone(), place, self.clock, self.own_address.clone());
        self.chrooted.lock().insert(chroot.clone(), Quorum::new(&member));
        Ok(member)
    }

    /// All gRPC services, for the root and for chroots; and pages beside them, where a port has some.
    pub fn routes(self: &Arc<Self>, takes_raft: bool, pages: Option<axum::Router>) -> Routes {
        let quorums = self.clone();
        let answer = move |request: Request| quorums.clone().answer(request, takes_raft);
        let services = self.admission.guard(axum::Router::new().fallback(answer));
        pages.unwrap_or_default().fallback_service(services).into()
    }

    async fn answer(self: Arc<Self>, request: Request, takes_raft: bool) -> Response {
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let is_of_tool = TOOLS_SERVICES.iter().any(|service| request.uri().path().starts_with(service));
        let quorum = match self.quorum_of(&metadata, request.extensions().get(), is_of_tool).await {
            Ok(quorum) => quorum,
            Err(status) => return status.into_http(),
        };
        let mut routes = if takes_raft { quorum.with_raft } else { quorum.without_raft };
        match routes.call(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    async fn quorum_of(
        self: &Arc<Self>,
        metadata: &MetadataMap,
        caller: Option<&Caller>,
        is_of_tool: bool,
    ) -> Result<Quorum, Status> {
        let Some(chroot) = cluster_metadata::chroot(metadata)? else { return Ok(self.root.clone()) };
        if let Some(known) = self.chrooted(&chroot) {
            return Ok(known);
        }
        if is_of_tool {
            return Err(Status::not_found(format!("no broker has connected with the chroot {chroot} yet")));
        }
        if !caller.is_some_and(|caller| caller.has(Role::Member)) {
            return Err(Status::permission_denied("only a broker or a coordinator begins the cluster of a chroot"));
        }
        self.begin(&chroot).await
    }

    fn chrooted(&self, chroot: &Chroot) -> Option<Quorum> {
        self.chrooted.lock().get(chroot).cloned()
    }

    /// In a task of its own: a caller that goes away meanwhile must not leave a cluster that is known and that nobody
    /// runs.
    async fn begin(self: &Arc<Self>, chroot: &Chroot) -> Result<Quorum, Status> {
        let (quorums, chroot) = (self.clone(), chroot.clone());
        let begun = tokio::spawn(async move { quorums.begin_one(&chroot).await });
        begun.await.map_err(|_| Status::internal("the task that begins the chroot ended"))?
    }

    async fn begin_one(self: &Arc<Self>, chroot: &Chroot) -> Result<Quorum, Status> {
        let _one = self.beginning.lock().await;
        if let Some(known) = self.chrooted(chroot) {
            return Ok(known);
        }
        if self.chrooted.lock().len() >= CHROOTS_MAX {
            tracing::warn!(
                "refused: chroot {chroot} would be one more than the {CHROOTS_MAX} that a coordinator holds"
            );
            return Err(Status::failed_precondition(format!(
                "chroot {chroot}: these coordinators hold {CHROOTS_MAX} already, which is the most"
            )));
        }
        // Opening the database takes some ten milliseconds.
        let (quorums, of) = (self.clone(), chroot.clone());
        let opened = tokio::task::spawn_blocking(move || quorums.open_chroot(&of)).await;
        let opened = opened.map_err(|_| Status::internal("the thread that opens the chroot ended"))?;
        let member = opened.map_err(|error| {
            tracing::error!("chroot {chroot}: {error}");
            Status::unavailable(format!("chroot {chroot}: {error}"))
        })?;
        tracing::info!("a cluster of its own begins below {chroot}");
        self.begun.send(member).await.map_err(|_| Status::unavailable("this coordinator stops"))?;
        self.chrooted(chroot).ok_or_else(|| Status::internal("the chroot is gone"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use ottla_config::Sources;

    use super::*;

    /// A broker gave up, or ended, while the database was opened: the coordinator knew the chroot from then on, and ran
    /// nothing for it until it was started again.
    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_leave_a_cluster_that_nobody_runs() {
        let directory = tempfile::tempdir().expect("a directory");
        let data_dir = directory.path().display().to_string();
        let flags = [("id", "1"), ("data.dir", &*data_dir)];
        let flags = flags.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let config = CoordinatorConfig::load(&Sources { flags, ..Sources::default() }).expect("a configuration").config;
        let disk = member::open_disk(&config).expect("a disk");
        let (security, address) = (OutgoingSecurity::default(), "127.0.0.1:2181".to_owned());
        let opened = Quorums::open(config, security, disk, Clock::default(), address);
        let Ok((quorums, _members, mut begun)) = opened else { panic!("not opened") };
        let chroot = Chroot::parse("/kafka").ok().flatten().expect("a chroot");
        assert!(quorums.begin(&chroot).now_or_never().is_none(), "its caller is gone");
        let member = tokio::time::timeout(Duration::from_secs(60), begun.recv()).await;
        assert!(member.expect("it is run").is_some() && quorums.chrooted(&chroot).is_some());
    }
}
