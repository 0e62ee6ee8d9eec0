//! What the APIs of delegation tokens share.

use ottla_model::{ErrorCode, KafkaPrincipal, SecurityProtocol};

use super::RequestContext;
use crate::broker::Broker;
use crate::delegation_tokens::Tokens;

/// Kafka's conditions for every request about tokens: its sender is known, and by something else than a token.
pub fn may_ask(context: &RequestContext) -> Result<(), ErrorCode> {
    let is_unknown = match context.security_protocol {
        SecurityProtocol::Plaintext => true,
        SecurityProtocol::Ssl => context.principal == KafkaPrincipal::anonymous(),
        SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl => false,
    };
    match is_unknown || context.is_by_token {
        true => Err(ErrorCode::DelegationTokenRequestNotAllowed),
        false => Ok(()),
    }
}

pub fn enabled(broker: &Broker) -> Result<&Tokens, ErrorCode> {
    broker.tokens.as_deref().ok_or(ErrorCode::DelegationTokenAuthDisabled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::test_context::context;

    #[test]
    fn who_is_not_known_by_its_own_credentials_gets_no_token() {
        let asks = |security_protocol, principal, is_by_token| {
            may_ask(&RequestContext { security_protocol, principal, is_by_token, ..context("X") }).is_ok()
        };
        let alice = || KafkaPrincipal::user("alice");
        assert!(asks(SecurityProtocol::Ssl, alice(), false) && asks(SecurityProtocol::SaslPlaintext, alice(), false));
        assert!(!asks(SecurityProtocol::Ssl, KafkaPrincipal::anonymous(), false));
        assert!(!asks(SecurityProtocol::Plaintext, alice(), false));
        assert!(!asks(SecurityProtocol::SaslSsl, alice(), true));
    }
}
