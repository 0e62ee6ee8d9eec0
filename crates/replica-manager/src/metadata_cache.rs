//! The broker's image of the tree: replaced as a whole by the broker's watcher, read by everybody, never older than it
//! was.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ottla_metadata::image::Image;
use ottla_model::Revision;
use tokio::sync::watch;

use crate::departed::Departed;
use crate::suspects::Suspects;

pub struct MetadataCache {
    image: ArcSwap<Image>,
    revision: watch::Sender<Revision>,
    suspects: Suspects,
    departed: Departed,
}

impl MetadataCache {
    /// Answers will wait for a suspect's successor for `hold_max` at most.
    pub fn new(image: Arc<Image>, hold_max: Duration) -> Self {
        let (revision, _) = watch::channel(image.revision());
        Self { image: ArcSwap::new(image), revision, suspects: Suspects::new(hold_max), departed: Departed::default() }
    }

    /// The current image; cheap, lock-free. Take it once per request: a second look may be newer.
    pub fn current(&self) -> Arc<Image> {
        self.image.load_full()
    }

    /// The current image without a reference count: for a look that ends before anything else happens.
    #[inline]
    pub fn peek(&self) -> arc_swap::Guard<Arc<Image>> {
        self.image.load()
    }

    pub fn revision(&self) -> Revision {
        self.image.load().revision()
    }

    /// Puts a newer image in place. An older one is dropped: an image never goes back.
    pub fn store(&self, image: Arc<Image>) {
        if image.revision() < self.revision() {
            return;
        }
        self.suspects.image_changed(&image);
        let old = self.image.load_full();
        // Before the image: who sees that a broker has left sees it among the departed.
        self.departed.image_changed(&old, &image);
        self.image.store(image);
    }

    /// The leaders that do not answer.
    pub fn suspects(&self) -> &Suspects {
        &self.suspects
    }

    /// The brokers that have just left.
    pub fn departed(&self) -> &Departed {
        &self.departed
    }

    /// Tells those who wait that everything of the current image has taken effect here: its partitions are open.
    pub fn announce(&self) {
        let revision = self.revision();
        self.revision.send_if_modified(|known| {
            let newer = revision > *known;
            if newer {
                *known = revision;
            }
            newer
        });
    }

    /// The revision up to which everything has taken effect here.
    pub fn effective_revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// The same, and every later one.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Waits until everything up to `revision` has taken effect here, at most for `timeout`; says whether it has.
    pub async fn wait_for(&self, revision: Revision, timeout: Duration) -> bool {
        let mut revisions = self.revision.subscribe();
        tokio::time::timeout(timeout, revisions.wait_for(|reached| *reached >= revision))
            .await
            .is_ok_and(|reached| reached.is_ok())
    }
}
