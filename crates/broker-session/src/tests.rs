//! One broker's session, input by input.

use std::time::Duration;

use bytes::Bytes;
use ottla_metadata::controller::{BeatAnswer, Refusal, Register, Registered, ShutdownProgress};
use ottla_metadata::{BrokerRegistration, Endpoint, Image, LeaderSettings, Node, nodes};
use ottla_model::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, IncarnationId, ListenerName, MonotonicMs, Revision, TimestampMs,
};

use super::*;

const ID: BrokerId = BrokerId(1);
const INCARNATION: IncarnationId = IncarnationId([7; 16]);
const INTERVAL_MS: u64 = 100;
const SESSION_MS: u64 = 600;

fn config() -> SessionConfig {
    SessionConfig {
        heartbeat_interval: Duration::from_millis(INTERVAL_MS),
        session_timeout: Duration::from_millis(SESSION_MS),
        controlled_shutdown: true,
        rules: BrokenRules::default(),
    }
}

fn applicant() -> Applicant {
    Applicant {
        id: ID,
        incarnation: INCARNATION,
        stored_cluster_id: Some(ClusterId::new("ours")),
        wanted_cluster_id: None,
        endpoints: Vec::new(),
        inter_broker_listener: ListenerName::new("INTERNAL"),
        rack: None,
        whole_since: BrokerEpoch(3),
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
    }
}

fn at(ms: u64) -> MonotonicMs {
    MonotonicMs(1_000 + ms)
}

fn session_of(applicant: Applicant) -> Session {
    Session::new(config(), applicant, at(0))
}

fn accepted(epoch: i64) -> Registered {
    Registered { broker: ID, epoch: BrokerEpoch(epoch), cluster_id: ClusterId::new("ours"), revision: Revision(1) }
}

fn refusal(error: ErrorCode) -> Refusal {
    Refusal::new(error, "no")
}

fn answer(committed: u64) -> BeatAnswer {
    BeatAnswer {
        committed_revision: Revision(committed),
        fenced: false,
        session_timeout: Duration::from_millis(SESSION_MS),
    }
}

fn fenced() -> BeatAnswer {
    BeatAnswer { fenced: true, ..answer(1) }
}

/// An image with a registration of this broker's id.
fn image(revision: u64, incarnation: IncarnationId, ready: bool) -> Image {
    let listener = ListenerName::new("INTERNAL");
    let registration = BrokerRegistration {
        id: ID,
        epoch: BrokerEpoch(5),
        incarnation,
        endpoints: vec![Endpoint {
            listener: listener.clone(),
            host: "b1".to_owned(),
            port: 9_092,
            security_protocol: "PLAINTEXT".to_owned(),
        }],
        inter_broker_listener: listener,
        rack: None,
        ready,
        shutting_down: false,
        awaits_clients: false,
        min_insync_replicas: 1,
        leaders: LeaderSettings::default(),
        levels: ottla_model::FeatureLevels::OF_THIS_RELEASE,
        registered_at: TimestampMs(0),
    };
    let (path, payload): (_, Bytes) = (nodes::broker::path(ID), nodes::broker::encode(&registration));
    let node = Node { payload, created: Revision(5), modified: Revision(5), version: 0 };
    Image::from_nodes(Revision(revision), [(&path, &node)]).0
}

fn request(effects: &[Effect]) -> Register {
    match effects {
        [Effect::Register(request)] => request.clone(),
        other => panic!("not a registration alone: {other:?}"),
    }
}

/// A session that is registered in epoch 5, with an open stream whose first beat, at 0, is answered.
fn open_session() -> Session {
    let mut session = session_of(applicant());
    request(&session.tick(at(0)));
    session.registration_answered(at(0), Ok(accepted(5)));
    session.tick(at(0));
    session.heartbeats_opened(at(0));
    session.beat_answered(at(0), &answer(0));
    session
}

fn beats(effects: &[Effect]) -> Vec<(i64, u64)> {
    let beat = |effect: &Effect| match effect {
        Effect::Heartbeat(beat) | Effect::OpenHeartbeats(beat) => Some((beat.epoch.0, beat.image_revision.0)),
        _ => None,
    };
    effects.iter().filter_map(beat).collect()
}

#[test]
fn a_registration_is_remembered_before_its_first_beat() {
    let mut session = session_of(applicant());
    let request = request(&session.tick(at(0)));
    assert_eq!((request.broker, request.incarnation, request.clean_shutdown_epoch), (ID, INCARNATION, BrokerEpoch(3)));
    assert_eq!(session.tick(at(5_000)), [], "one question at a time");
    assert_eq!((session.epoch(), session.whole_since()), (None, BrokerEpoch(3)));
    session.registration_answered(at(5_000), Ok(accepted(5)));
    let effects = session.tick(at(5_000));
    assert!(
        matches!(
            effects.as_slice(),
            [Effect::Remember { is_first: true, .. }, Effect::Registered(_), Effect::OpenHeartbeats(_)]
        ),
        "{effects:?}"
    );
    assert_eq!((session.epoch(), session.whole_since()), (Some(BrokerEpoch(5)), BrokerEpoch(5)));
    session.registration_answered(at(5_000), Ok(accepted(6)));
    assert_eq!(session.epoch(), Some(BrokerEpoch(5)), "what was not asked is not taken");
}

#[test]
fn without_an_answer_and_after_a_passing_refusal_it_asks_again() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    assert_eq!(session.deadline(), None);
    session.registration_unanswered(at(10));
    assert_eq!(session.deadline(), Some(at(210)));
    assert_eq!(session.tick(at(209)), []);
    request(&session.tick(at(210)));
    session.registration_answered(at(210), Err(refusal(ErrorCode::RequestTimedOut)));
    assert_eq!(session.tick(at(409)), []);
    request(&session.tick(at(410)));
}

/// A broker without the right certificate asked five times a second, for ever.
#[test]
fn a_broker_that_is_turned_away_asks_less_and_less_often_until_it_is_let_in() {
    let mut session = session_of(applicant());
    let mut now = 0;
    let mut turn_away = |session: &mut Session, pause: u64| {
        request(&session.tick(at(now)));
        session.registration_turned_away(at(now));
        assert_eq!(session.deadline(), Some(at(now + pause)));
        now += pause;
    };
    for pause in [200, 400, 800, 1_600, 2_000, 2_000] {
        turn_away(&mut session, pause);
    }
    session.tick(at(now));
    session.registration_answered(at(now), Ok(accepted(5)));
    session.tick(at(now));
    session.heartbeats_opened(at(now));
    session.beat_answered(at(now), &fenced());
    let effects = session.tick(at(now));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Register(_))), "{effects:?}");
    session.registration_turned_away(at(now));
    assert_eq!(session.deadline(), Some(at(now + 200)));
}

#[test]
fn a_refused_stream_of_heartbeats_is_not_opened_again_at_once() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    session.registration_answered(at(0), Ok(accepted(5)));
    let opens = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::OpenHeartbeats(_)));
    assert!(opens(&session.tick(at(0))));
    session.heartbeats_refused(at(0));
    assert!(!opens(&session.tick(at(499))));
    assert!(opens(&session.tick(at(500))));
    session.heartbeats_lost(at(500));
    assert!(opens(&session.tick(at(520))));
}

#[test]
fn a_duplicate_id_is_given_up_when_its_holder_cannot_be_fenced_any_more() {
    let mut session = session_of(applicant());
    let patience = SESSION_MS + 1_000;
    for ms in [0, patience - 200] {
        request(&session.tick(at(ms)));
        session.registration_answered(at(ms), Err(refusal(ErrorCode::DuplicateBrokerRegistration)));
        assert_eq!(session.tick(at(ms)), []);
    }
    request(&session.tick(at(patience)));
    session.registration_answered(at(patience), Err(refusal(ErrorCode::DuplicateBrokerRegistration)));
    let effects = session.tick(at(patience));
    let [Effect::GiveUp(give_up)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(give_up.to_string(), "broker.id=1 is in use: no");
    assert_eq!((session.tick(at(patience + 5_000)), session.deadline()), (Vec::new(), None), "nothing follows");
}

#[test]
fn patience_with_a_duplicate_begins_anew_after_a_registration() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    session.registration_answered(at(0), Err(refusal(ErrorCode::DuplicateBrokerRegistration)));
    session.tick(at(200));
    session.registration_answered(at(200), Ok(accepted(5)));
    session.tick(at(200));
    session.heartbeats_opened(at(200));
    session.beat_answered(at(9_000), &fenced());
    session.tick(at(9_000));
    session.registration_answered(at(9_000), Err(refusal(ErrorCode::DuplicateBrokerRegistration)));
    assert_eq!(session.tick(at(9_000)), []);
}

#[test]
fn refusals_for_good_end_the_process() {
    for (error, line) in [
        (ErrorCode::InconsistentClusterId, "no"),
        (ErrorCode::InvalidRegistration, "the quorum refuses this broker: InvalidRegistration: no"),
    ] {
        let mut session = session_of(applicant());
        session.tick(at(0));
        session.registration_answered(at(0), Err(refusal(error)));
        let effects = session.tick(at(0));
        let [Effect::GiveUp(give_up)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!(give_up.to_string(), line);
    }
}

#[test]
fn coordinators_of_another_cluster_are_left() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    session.registration_answered(at(0), Ok(Registered { cluster_id: ClusterId::new("theirs"), ..accepted(5) }));
    let effects = session.tick(at(0));
    let [Effect::GiveUp(give_up)] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(give_up.to_string(), "the coordinators belong to cluster theirs, this broker to ours");
    assert_eq!(session.epoch(), None);
}

#[test]
fn a_new_disk_asks_for_the_cluster_before_it_shows_up_there() {
    let new_disk = || {
        let wanted_cluster_id = Some(ClusterId::new("ours"));
        session_of(Applicant { stored_cluster_id: None, wanted_cluster_id, ..applicant() })
    };
    let mut session = new_disk();
    assert_eq!(session.tick(at(0)), [Effect::AskClusterId]);
    session.registration_unanswered(at(0));
    assert_eq!((session.tick(at(199)), session.deadline()), (Vec::new(), Some(at(200))));
    assert_eq!(session.tick(at(200)), [Effect::AskClusterId]);
    session.cluster_id_answered(at(200), Some(&ClusterId::new("theirs")));
    assert!(matches!(session.tick(at(200)).as_slice(), [Effect::GiveUp(GiveUp::OtherCluster { .. })]));
    for found in [None, Some(ClusterId::new("ours"))] {
        let mut session = new_disk();
        session.tick(at(0));
        session.cluster_id_answered(at(0), found.as_ref());
        let request = request(&session.tick(at(0)));
        assert_eq!(request.cluster_id, None, "this disk is new");
        session.cluster_id_answered(at(0), Some(&ClusterId::new("theirs")));
        assert_eq!(session.tick(at(0)), [], "asked once");
    }
}

#[test]
fn an_id_that_the_quorum_gave_is_kept() {
    let mut session = session_of(Applicant { id: BrokerId::NONE, stored_cluster_id: None, ..applicant() });
    assert_eq!(request(&session.tick(at(0))).broker, BrokerId::NONE);
    session.registration_answered(at(0), Ok(Registered { broker: BrokerId(1_001), ..accepted(5) }));
    session.tick(at(0));
    assert_eq!(session.id(), BrokerId(1_001));
    session.heartbeats_opened(at(0));
    session.beat_answered(at(0), &fenced());
    let effects = session.tick(at(0));
    let Some(Effect::Register(request)) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((request.broker, &request.cluster_id), (BrokerId(1_001), &Some(ClusterId::new("ours"))));
}

#[test]
fn beats_leave_every_interval_and_soon_after_news() {
    let mut session = open_session();
    assert_eq!(session.deadline(), Some(at(INTERVAL_MS)));
    assert_eq!(session.tick(at(INTERVAL_MS - 1)), []);
    assert_eq!(beats(&session.tick(at(INTERVAL_MS))), [(5, 0)]);
    session.beat_answered(at(INTERVAL_MS), &answer(0));
    session.image_moved(&image(6, INCARNATION, false), Revision(6));
    assert_eq!(session.deadline(), Some(at(INTERVAL_MS + 20)));
    assert_eq!(session.tick(at(INTERVAL_MS + 19)), []);
    assert_eq!(beats(&session.tick(at(INTERVAL_MS + 20))), [(5, 6)]);
    session.image_moved(&image(6, INCARNATION, false), Revision(6));
    assert_eq!(session.tick(at(INTERVAL_MS + 119)), [], "no news");
    assert_eq!(beats(&session.tick(at(INTERVAL_MS + 120))), [(5, 6)]);
}

#[test]
fn a_beat_says_what_the_partitions_have_taken() {
    let mut session = open_session();
    session.beat_answered(at(0), &answer(9));
    session.image_moved(&image(8, INCARNATION, false), Revision(6));
    assert_eq!(beats(&session.tick(at(INTERVAL_MS))), [(5, 6)]);
}

#[test]
fn a_stream_that_ends_is_opened_again() {
    let mut session = open_session();
    session.heartbeats_lost(at(10));
    assert_eq!(session.deadline(), Some(at(30)));
    assert_eq!(session.tick(at(29)), []);
    assert_eq!(session.tick(at(30)).len(), 1);
    assert_eq!((session.tick(at(5_000)), session.deadline()), (Vec::new(), None), "it is being opened");
    session.heartbeats_lost(at(5_000));
    let effects = session.tick(at(5_020));
    assert!(matches!(effects.as_slice(), [Effect::OpenHeartbeats(_)]), "{effects:?}");
    session.heartbeats_lost(at(5_020));
    session.heartbeats_lost(at(5_030));
    assert_eq!(session.deadline(), Some(at(5_040)), "the pause is from the end of the stream");
}

#[test]
fn a_stream_without_answers_is_given_up() {
    let silence = SESSION_MS / 2;
    let mut session = open_session();
    for beat in [INTERVAL_MS, 2 * INTERVAL_MS, 3 * INTERVAL_MS] {
        assert_eq!(beats(&session.tick(at(beat))).len(), 1);
    }
    let silent_at = INTERVAL_MS + silence;
    assert_eq!(session.deadline(), Some(at(silent_at)));
    assert_eq!(session.tick(at(silent_at)), [Effect::CloseHeartbeats { is_silent: true }]);
    assert_eq!(beats(&session.tick(at(silent_at + 20))).len(), 1);
    session.heartbeats_opened(at(silent_at + 20));
    session.beat_answered(at(silent_at + 20), &answer(0));
    assert_eq!(beats(&session.tick(at(silent_at + 120))).len(), 1, "an answered stream is kept");
}

#[test]
fn a_fenced_broker_registers_again_with_the_epoch_it_had() {
    let mut session = open_session();
    session.beat_answered(at(50), &fenced());
    assert_eq!((session.epoch(), session.whole_since()), (None, BrokerEpoch(5)));
    let effects = session.tick(at(50));
    let [Effect::CloseHeartbeats { is_silent: false }, Effect::Register(request)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!((request.incarnation, request.clean_shutdown_epoch), (INCARNATION, BrokerEpoch(5)));
    assert_eq!(session.deadline(), None);
    session.beat_answered(at(60), &fenced());
    assert_eq!(session.tick(at(60)), [], "the stream has ended");
    session.registration_answered(at(70), Ok(accepted(9)));
    let effects = session.tick(at(70));
    assert!(
        matches!(effects.first(), Some(Effect::Remember { registered, is_first: false }) if registered.epoch.0 == 9),
        "{effects:?}"
    );
    assert_eq!(beats(&effects), [(9, 0)], "at once, in the new epoch");
}

#[test]
fn clients_are_served_once_and_when_the_image_shows_the_registration_as_ready() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    session.image_moved(&image(5, INCARNATION, true), Revision(5));
    assert_eq!(session.tick(at(0)), [], "it has not heard of its registration");
    session.registration_answered(at(0), Ok(accepted(5)));
    session.image_moved(&image(5, IncarnationId([9; 16]), true), Revision(5));
    assert!(!session.tick(at(0)).contains(&Effect::Serve), "a former life's");
    session.image_moved(&image(6, INCARNATION, false), Revision(6));
    assert!(!session.tick(at(0)).contains(&Effect::Serve), "not ready");
    session.image_moved(&image(7, INCARNATION, true), Revision(7));
    assert_eq!(session.tick(at(0)), [Effect::Serve]);
    session.image_moved(&image(8, INCARNATION, true), Revision(8));
    assert_eq!(session.tick(at(0)), []);
}

#[test]
fn a_session_knows_where_it_stands() {
    let mut session = session_of(applicant());
    assert_eq!(session.standing(), Standing::Unregistered);
    session.tick(at(0));
    session.registration_answered(at(0), Ok(accepted(5)));
    assert_eq!(session.standing(), Standing::CatchingUp);
    session.image_moved(&image(7, INCARNATION, true), Revision(7));
    assert_eq!(session.standing(), Standing::Live);
    session.tick(at(0));
    session.heartbeats_opened(at(0));
    session.beat_answered(at(50), &fenced());
    assert_eq!(session.standing(), Standing::Fenced, "although its image is of before");
    session.tick(at(50));
    session.image_moved(&image(8, INCARNATION, false), Revision(8));
    session.registration_answered(at(70), Ok(accepted(9)));
    assert_eq!(session.standing(), Standing::CatchingUp);
}

#[test]
fn an_image_that_stays_behind_is_watched_elsewhere() {
    let mut session = open_session();
    session.image_moved(&image(6, INCARNATION, false), Revision(6));
    session.tick(at(20));
    session.beat_answered(at(20), &answer(8));
    session.beat_answered(at(300), &answer(9));
    session.image_moved(&image(7, INCARNATION, false), Revision(7));
    assert!(!session.tick(at(519)).contains(&Effect::LeaveWatch));
    assert!(session.deadline() <= Some(at(520)));
    assert!(session.tick(at(520)).contains(&Effect::LeaveWatch));
    assert!(!session.tick(at(521)).contains(&Effect::LeaveWatch), "once");
    let mut session = open_session();
    session.beat_answered(at(0), &answer(8));
    session.image_moved(&image(8, INCARNATION, false), Revision(6));
    assert!(!session.tick(at(2_000)).contains(&Effect::LeaveWatch), "it has come, though not been taken");
}

fn progress(error: ErrorCode, done: bool) -> ShutdownProgress {
    ShutdownProgress { error, remaining_leaderships: 2, revision: Revision(1), done }
}

fn asks(effects: &[Effect]) -> Option<Duration> {
    effects.iter().find_map(|effect| match effect {
        Effect::ControlledShutdown(request, timeout) => {
            assert_eq!((request.broker, request.epoch, request.incarnation), (ID, BrokerEpoch(5), INCARNATION));
            Some(*timeout)
        }
        _ => None,
    })
}

fn closing(effects: &[Effect]) -> Option<Closing> {
    effects.iter().find_map(|effect| match effect {
        Effect::Close(closing) => Some(*closing),
        _ => None,
    })
}

#[test]
fn a_shutdown_asks_until_nothing_remains() {
    let mut session = open_session();
    assert!(!session.is_stopping());
    session.stop(at(0));
    assert!(session.is_stopping());
    assert_eq!(asks(&session.tick(at(0))), Some(Duration::from_millis(1_500)));
    assert_eq!(asks(&session.tick(at(10))), None);
    session.shutdown_answered(at(10), &progress(ErrorCode::None, false));
    assert_eq!(session.deadline(), Some(at(35)));
    assert_eq!(asks(&session.tick(at(34))), None);
    assert!(asks(&session.tick(at(35))).is_some());
    session.stop(at(36));
    session.shutdown_answered(at(40), &progress(ErrorCode::None, true));
    assert_eq!(closing(&session.tick(at(40))), Some(Closing::Moved { remaining_leaderships: 2 }));
    assert_eq!(session.tick(at(5_000)), []);
}

#[test]
fn a_shutdown_goes_on_beating() {
    let mut session = open_session();
    session.stop(at(0));
    session.tick(at(0));
    assert_eq!(beats(&session.tick(at(INTERVAL_MS))).len(), 1);
}

#[test]
fn a_shutdown_is_bounded() {
    let mut session = open_session();
    session.stop(at(0));
    session.tick(at(0));
    session.shutdown_unanswered();
    assert_eq!(closing(&session.tick(at(1))), Some(Closing::NoQuorum));
    let mut session = open_session();
    session.stop(at(0));
    session.tick(at(0));
    session.shutdown_answered(at(0), &progress(ErrorCode::StaleBrokerEpoch, false));
    assert_eq!(closing(&session.tick(at(0))), Some(Closing::Refused(ErrorCode::StaleBrokerEpoch)));
    let mut session = open_session();
    session.stop(at(0));
    session.tick(at(0));
    session.shutdown_answered(at(2_000), &progress(ErrorCode::None, false));
    assert_eq!(asks(&session.tick(at(2_025))), Some(Duration::from_millis(975)), "no longer than the whole may take");
    assert_eq!(closing(&session.tick(at(2_999))), None);
    assert_eq!(closing(&session.tick(at(3_000))), Some(Closing::TimedOut));
}

#[test]
fn a_broker_without_a_registration_closes_at_once() {
    let mut session = session_of(applicant());
    session.tick(at(0));
    session.stop(at(10));
    assert_eq!(closing(&session.tick(at(10))), Some(Closing::NotRegistered));
    assert_eq!(session.whole_since(), BrokerEpoch(3));
    let mut session = open_session();
    session.stop(at(10));
    session.tick(at(10));
    session.beat_answered(at(20), &fenced());
    let effects = session.tick(at(20));
    assert_eq!(closing(&effects), Some(Closing::NotRegistered));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Register(_))), "it does not come back");
    let without = SessionConfig { controlled_shutdown: false, ..config() };
    let mut session = Session::new(without, applicant(), at(0));
    session.tick(at(0));
    session.registration_answered(at(0), Ok(accepted(5)));
    session.tick(at(0));
    session.stop(at(0));
    assert_eq!(closing(&session.tick(at(0))), Some(Closing::Disabled));
}

/// The pause before a stream is opened again is for coordinators that do not answer.
#[test]
fn a_new_registration_opens_its_stream_at_once() {
    let mut session = open_session();
    session.beat_answered(at(100), &fenced());
    let asked = session.tick(at(100));
    assert!(matches!(asked.as_slice(), [Effect::CloseHeartbeats { .. }, Effect::Register(_)]), "{asked:?}");
    session.registration_answered(at(101), Ok(accepted(6)));
    let effects = session.tick(at(101));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::OpenHeartbeats(_))), "{effects:?}");
}
