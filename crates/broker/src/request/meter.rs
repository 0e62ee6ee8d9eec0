//! The time of requests, counted where somebody has a limit of it (`request_percentage`): on workers and beside them.

use std::sync::Arc;
use std::time::Instant;

use ottla_network::{Reply, RequestContext, Response};
use ottla_protocol::{Api, RequestHeader};

use super::heavy;
use crate::broker::Broker;
use crate::quotas::Sender;
use crate::quotas::throttle::{tell, throttled};

/// Who is charged for a request; nobody if there is no limit, or if a broker sent it.
pub struct Meter(Option<Charged>);

struct Charged {
    sender: Sender,
    api: Api,
    version: i16,
}

impl Meter {
    #[inline]
    pub fn of(broker: &Broker, context: &RequestContext, header: &RequestHeader) -> Self {
        let sender = broker.quotas.timed(context, header.client_id.as_deref());
        Self(sender.zip(header.api()).and_then(|(sender, api)| {
            let is_brokers =
                context.is_inter_broker_listener && matches!(api, Api::WriteTxnMarkers | Api::AddPartitionsToTxn);
            (!is_brokers).then_some(Charged { sender, api, version: header.api_version })
        }))
    }

    /// Handles the request, and counts the time that it takes.
    #[inline]
    pub fn measure(&self, broker: &Broker, handle: impl FnOnce() -> Reply) -> Reply {
        let Some(Charged { sender, api, version }) = &self.0 else { return handle() };
        let began = Instant::now();
        let answer = handle();
        throttled(answer, *api, *version, broker.quotas.took(sender, began.elapsed()))
    }

    /// Handles a request that may take long though it is small: beside the workers, where its time is counted. What is
    /// handled here has its meter already.
    pub fn carry_out_if(
        self,
        broker: &Arc<Broker>,
        is_long: bool,
        body_bytes: usize,
        handle: impl FnOnce() -> Reply + Send + 'static,
    ) -> Reply {
        if !heavy::goes_beside(is_long, body_bytes) {
            return handle();
        }
        let owned = Arc::clone(broker);
        broker.heavy_work.carry_out(move || self.measure(&owned, handle))
    }

    /// A response that is made beside the workers, where its time is counted.
    pub fn answer(self, broker: &Arc<Broker>, make: impl FnOnce() -> Response + Send + 'static) -> Reply {
        let owned = Arc::clone(broker);
        broker.heavy_work.answer(move || {
            let Some(Charged { sender, api, version }) = &self.0 else { return make() };
            let began = Instant::now();
            let response = make();
            tell(response, *api, *version, owned.quotas.took(sender, began.elapsed()))
        })
    }
}
