//! How an image follows the tree: the changes of each revision in order, or a snapshot that covers those that are
//! missing. An image never goes back to an older revision.

use ottla_model::Revision;

use crate::delta::Delta;
use crate::image::Image;
use crate::tree::{Node, NodeChange, Path};

/// Rules that a simulation takes out to see that its checks notice. All hold by default; nothing but tests sets them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BrokenRules {
    /// A snapshot does not bring the authorizer's rules: those that the image had stay.
    pub snapshots_keep_acls: bool,
    /// A snapshot does not bring configurations, and so no users: those that the image had stay.
    pub snapshots_keep_configs: bool,
}

/// The image after the changes of a revision, and what they changed; none if the image has that revision.
pub fn follow_changes(image: &Image, revision: Revision, changes: &[NodeChange]) -> Option<(Image, Delta)> {
    (revision > image.revision()).then(|| image.apply(revision, changes))
}

/// The image of a snapshot, and what differs; none if the image is as new.
pub fn follow_snapshot<'a>(
    image: &Image,
    revision: Revision,
    nodes: impl IntoIterator<Item = (&'a Path, &'a Node)>,
    rules: BrokenRules,
) -> Option<(Image, Delta)> {
    if revision <= image.revision() {
        return None;
    }
    let (mut next, delta) = Image::from_nodes(revision, nodes);
    if rules.snapshots_keep_acls {
        next.acls = image.acls.clone();
    }
    if rules.snapshots_keep_configs {
        next.configs = image.configs.clone();
    }
    // What differs from an empty image is known.
    let is_first = image.revision() == Revision::default();
    let delta = if is_first { delta } else { Delta::between(image, &next) };
    Some((next, delta))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_never_goes_back() {
        let (image, _) = Image::empty().apply(Revision(9), &[]);
        assert!(follow_snapshot(&image, Revision(8), [], BrokenRules::default()).is_none());
        assert!(follow_snapshot(&image, Revision(9), [], BrokenRules::default()).is_none());
        assert!(follow_changes(&image, Revision(9), &[]).is_none());
        let (newer, delta) = follow_changes(&image, Revision(10), &[]).expect("it is newer");
        assert_eq!(newer.revision(), Revision(10));
        assert!(delta.is_empty());
        let (newer, _) = follow_snapshot(&image, Revision(12), [], BrokenRules::default()).expect("it is newer");
        assert_eq!(newer.revision(), Revision(12));
    }
}
