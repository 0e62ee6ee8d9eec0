//! The state that this node has applied, for readers.

use ottla_metadata::image::Image;
use ottla_metadata::tree::Tree;
use ottla_model::Revision;

/// Tree and image at one revision. Immutable, shared, cheap to make: both are persistent maps.
#[derive(Clone, Debug)]
pub struct View {
    pub revision: Revision,
    pub tree: Tree,
    pub image: Image,
}

impl View {
    pub fn new(tree: Tree, image: Image) -> Self {
        Self { revision: tree.revision(), tree, image }
    }
}
