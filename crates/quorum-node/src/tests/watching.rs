//! The updates of a watcher from a revision.

use std::sync::Arc;

use ottla_metadata::image::Image;
use ottla_metadata::transaction::{Change, Transaction};
use ottla_metadata::tree::{NodeChange, Path, Tree};
use ottla_model::Revision;

use super::Outputs;
use crate::watchers::{Changes, HistoryLimits, Watchers};
use crate::{Output, View, WatchUpdate, WatcherId};

fn view(revision: u64) -> Arc<View> {
    let tree = Tree::restore(Revision(revision), []);
    Arc::new(View::new(tree.clone(), Image::from_tree(&tree)))
}

/// A history of revisions 11 to 20.
fn watchers() -> Watchers {
    let mut watchers = Watchers::new(HistoryLimits { revisions: 10, bytes: 1 << 20 }, false);
    for revision in 1..=20 {
        publish(&mut watchers, revision, &mut Outputs::default());
    }
    watchers
}

fn publish(watchers: &mut Watchers, revision: u64, out: &mut Outputs) {
    watchers.publish(Changes { revision: Revision(revision), changes: [].into() }, out);
}

/// Revisions that the watcher received; a snapshot counts a thousand more.
fn told(out: &Outputs, of: u64) -> Vec<u64> {
    let revision = |output: &Output| match output {
        Output::Watch { watcher, update } if watcher.0 == of => Some(match update {
            WatchUpdate::Snapshot(view) => 1_000 + view.revision.0,
            WatchUpdate::Changes(item) => item.revision.0,
        }),
        _ => None,
    };
    out.all.iter().filter_map(revision).collect()
}

#[test]
fn a_watcher_goes_on_where_it_was() {
    let cases: [(u64, Vec<u64>); 7] = [
        (0, vec![1_020]),
        (9, vec![1_020]),
        (10, (11..=20).collect()),
        (18, vec![19, 20]),
        (20, vec![]),
        (21, vec![]),
        (25, vec![]),
    ];
    for (from, expected) in cases {
        let (mut watchers, mut out) = (watchers(), Outputs::default());
        watchers.open(WatcherId(1), Revision(from), &view(20), &mut out);
        assert_eq!(told(&out, 1), expected, "from {from}");
        for revision in 21..=26 {
            publish(&mut watchers, revision, &mut out);
        }
        let later: Vec<u64> = (from.max(20) + 1..=26).collect();
        assert_eq!(told(&out, 1)[expected.len()..], later, "from {from}: nothing twice, nothing missing");
    }
}

#[test]
fn an_installed_snapshot_reaches_those_that_lack_it() {
    let (mut watchers, mut out) = (watchers(), Outputs::default());
    watchers.open(WatcherId(1), Revision(20), &view(20), &mut out);
    watchers.open(WatcherId(2), Revision(95), &view(20), &mut out);
    watchers.open(WatcherId(3), Revision(20), &view(20), &mut out);
    watchers.close(WatcherId(3));
    watchers.reset(&view(90), &mut out);
    publish(&mut watchers, 91, &mut out);
    publish(&mut watchers, 96, &mut out);
    assert_eq!(told(&out, 1), [1_090, 91, 96]);
    assert_eq!(told(&out, 2), [96], "it was ahead");
    assert_eq!(told(&out, 3), [] as [u64; 0]);
    watchers.open(WatcherId(4), Revision(20), &view(96), &mut out);
    assert_eq!(told(&out, 4), [1_096], "the history begins anew");
}

#[test]
fn the_history_is_bounded_by_bytes() {
    let mut watchers = Watchers::new(HistoryLimits { revisions: 100, bytes: 0 }, false);
    let mut out = Outputs::default();
    publish(&mut watchers, 1, &mut out);
    watchers.open(WatcherId(1), Revision(0), &view(1), &mut out);
    assert_eq!(told(&out, 1), [1_001]);
}

#[test]
fn large_changes_make_the_history_shorter() {
    let mut watchers = Watchers::new(HistoryLimits { revisions: 100, bytes: 2_000 }, false);
    let mut tree = Tree::new();
    for revision in 1..=5 {
        let path = Path::new(&format!("/{revision}")).expect("a path");
        let create = Change::Create { path, payload: vec![7; 800].into() };
        let changes = tree.apply(Revision(revision), &Transaction { changes: vec![create] }).expect("new nodes");
        let applied = Changes { revision: Revision(revision), changes: changes.into() };
        assert_eq!(applied.bytes(), size_of::<NodeChange>() + "/1".len() + 800);
        watchers.publish(applied, &mut Outputs::default());
    }
    let mut from = |from| {
        let mut out = Outputs::default();
        watchers.open(WatcherId(1), Revision(from), &view(5), &mut out);
        told(&out, 1)
    };
    assert_eq!(from(1), [1_005], "the second change is not kept");
    assert_eq!(from(3), [4, 5]);
}

/// With the rule taken out a watcher that is ahead of this node goes back to the node's state.
#[test]
fn without_its_rule_a_watcher_that_is_ahead_goes_back() {
    for (from, expected) in [(20, vec![]), (21, vec![1_020]), (25, vec![1_020])] {
        let mut watchers = Watchers::new(HistoryLimits { revisions: 10, bytes: 1 << 20 }, true);
        (1..=20).for_each(|revision| publish(&mut watchers, revision, &mut Outputs::default()));
        let mut out = Outputs::default();
        watchers.open(WatcherId(1), Revision(from), &view(20), &mut out);
        assert_eq!(told(&out, 1), expected, "from {from}");
    }
}
