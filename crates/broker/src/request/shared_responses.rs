//! Responses that are the same for all clients as long as the image is the same: encoded once, and shared.

use bytes::{Bytes, BytesMut};
use ottla_model::{BrokerId, ListenerName, Revision};
use parking_lot::Mutex;

use ottla_network::response::{Part, Response};

/// The length prefix and the correlation id, which differ.
const HEAD_BYTES: usize = 8;
/// Versions and listeners that are in use at the same time; more are made again.
const RESPONSES_MAX: usize = 16;

/// What a response depends on beside the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Form {
    pub listener: ListenerName,
    pub version: i16,
    pub topic_operations: bool,
    pub cluster_operations: bool,
    /// Brokers that have left the image and are listed nevertheless: time takes them away, not the next image.
    pub departed: Vec<BrokerId>,
}

#[derive(Default)]
pub struct SharedResponses {
    cached: Mutex<Cached>,
}

#[derive(Default)]
struct Cached {
    revision: Revision,
    frames: Vec<(Form, Bytes)>,
}

impl SharedResponses {
    /// The response of this form for the image of `revision`, if it was made.
    pub fn get(&self, revision: Revision, form: &Form, correlation_id: i32) -> Option<Response> {
        let cached = self.cached.lock();
        let frame = cached.frames.iter().find(|(known, _)| known == form).map(|(_, frame)| frame.clone());
        let is_current = cached.revision == revision;
        drop(cached);
        frame.filter(|_| is_current).map(|frame| with_correlation_id(&frame, correlation_id))
    }

    /// Keeps a whole frame, made for the image of `revision`.
    pub fn put(&self, revision: Revision, form: Form, frame: Bytes) {
        let mut cached = self.cached.lock();
        if revision < cached.revision || frame.len() < HEAD_BYTES {
            return;
        }
        if revision > cached.revision || cached.frames.len() >= RESPONSES_MAX {
            cached.frames.clear();
            cached.revision = revision;
        }
        cached.frames.retain(|(known, _)| *known != form);
        cached.frames.push((form, frame));
    }
}

fn with_correlation_id(frame: &Bytes, correlation_id: i32) -> Response {
    let mut head = BytesMut::from(frame.get(..HEAD_BYTES).unwrap_or_default());
    if let Some(place) = head.get_mut(4..HEAD_BYTES) {
        place.copy_from_slice(&correlation_id.to_be_bytes());
    }
    Response::new(vec![Part::Bytes(head.freeze()), Part::Bytes(frame.slice(HEAD_BYTES.min(frame.len())..))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(version: i16) -> Form {
        Form {
            listener: ListenerName::new("CLIENT"),
            version,
            topic_operations: false,
            cluster_operations: false,
            departed: Vec::new(),
        }
    }

    #[test]
    fn a_response_is_shared_until_the_image_changes() {
        let responses = SharedResponses::default();
        let frame = Bytes::from_static(b"\0\0\0\x08\0\0\0\x01body");
        assert!(responses.get(Revision(3), &form(9), 7).is_none());
        responses.put(Revision(3), form(9), frame.clone());
        let response = responses.get(Revision(3), &form(9), 7).expect("kept");
        let [Part::Bytes(head), Part::Bytes(body)] = response.parts.as_slice() else { panic!("two parts") };
        assert_eq!(&head[..], b"\0\0\0\x08\0\0\0\x07");
        assert_eq!(body.as_ptr(), frame[8..].as_ptr(), "no copy");
        assert!(responses.get(Revision(3), &form(8), 7).is_none(), "another form");
        let with_departed = Form { departed: vec![BrokerId(1)], ..form(9) };
        assert!(responses.get(Revision(3), &with_departed, 7).is_none(), "another list of brokers");
        responses.put(Revision(2), form(8), frame.clone());
        assert!(responses.get(Revision(2), &form(8), 7).is_none(), "an older image");
        responses.put(Revision(4), form(8), frame);
        assert!(responses.get(Revision(3), &form(9), 7).is_none());
        assert!(responses.get(Revision(4), &form(9), 7).is_none(), "made for a former image");
    }
}
