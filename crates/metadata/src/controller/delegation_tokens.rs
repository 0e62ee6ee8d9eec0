//! Delegation tokens (KIP-48) are made, renewed and ended.

use ottla_model::{ErrorCode, KafkaPrincipal, Revision, TimestampMs};

use super::draft::Draft;
use super::features::Gated;
use super::{
    AlterDelegationToken, AlteredDelegationToken, Answer, Controller, IdempotencyKey, Refusal, RequestId, TokenChange,
};
use crate::limits;
use crate::nodes::delegation_token::{self, DelegationToken};

impl Controller {
    pub(super) fn alter_delegation_token(
        &mut self,
        id: RequestId,
        request: AlterDelegationToken,
        key: Option<IdempotencyKey>,
    ) {
        let mut draft = Draft::default();
        let answer = self.plan_token(&request).map(|(token, written)| {
            let path = delegation_token::path(&request.token_id);
            match written {
                Written::Unchanged => {}
                Written::Put => draft.put(self.ledger.ahead_tree(), path, delegation_token::encode(&token)),
                Written::Removed => draft.delete(self.ledger.ahead_tree(), path),
            }
            AlteredDelegationToken { token, revision: Revision(0) }
        });
        let answer = Answer::AlterDelegationToken(answer);
        // Repeated, it does no more. Thousands expire at once, and would push out what others may ask again.
        let key = key.filter(|_| !matches!(request.change, TokenChange::RemoveExpired));
        self.remember(&mut draft, key, &answer);
        self.propose(draft);
        self.answer(id, answer);
    }

    /// The token after the change, and what is written of it.
    fn plan_token(&self, request: &AlterDelegationToken) -> Result<(DelegationToken, Written), Refusal> {
        let now = self.now.wall;
        let known = self.ledger.ahead().delegation_token(&request.token_id);
        let existing = || known.cloned().ok_or_else(|| refusal(ErrorCode::DelegationTokenNotFound));
        match &request.change {
            TokenChange::Create { .. } if known.is_some() => existing().map(|token| (token, Written::Unchanged)),
            TokenChange::Create { owner, requester, renewers, lifetime_ms, renewal_ms } => {
                self.check_finalized(Gated::DelegationTokens)?;
                self.check_new(&request.token_id, owner, requester, renewers)?;
                let max = later(now, *lifetime_ms);
                let token = DelegationToken {
                    owner: owner.clone(),
                    requester: requester.clone(),
                    renewers: renewers.clone(),
                    issued: now,
                    max,
                    expires: max.min(later(now, *renewal_ms)),
                };
                Ok((token, Written::Put))
            }
            TokenChange::Renew { by, period_ms } => {
                let mut token = renewable(existing()?, by, now)?;
                token.expires = token.max.min(later(now, *period_ms));
                Ok((token, Written::Put))
            }
            TokenChange::Expire { by, period_ms: Some(period_ms) } => {
                let mut token = renewable(existing()?, by, now)?;
                token.expires = token.max.min(later(now, *period_ms));
                Ok((token, Written::Put))
            }
            TokenChange::Expire { by, period_ms: None } => Ok((renewable(existing()?, by, now)?, Written::Removed)),
            TokenChange::RemoveExpired => {
                let token = existing()?;
                let written = if token.is_expired(now) { Written::Removed } else { Written::Unchanged };
                Ok((token, written))
            }
        }
    }

    fn check_new(
        &self,
        token_id: &str,
        owner: &KafkaPrincipal,
        requester: &KafkaPrincipal,
        renewers: &[KafkaPrincipal],
    ) -> Result<(), Refusal> {
        let refuse = |error, text: String| Err(Refusal::new(error, text));
        if token_id.is_empty() || token_id.len() > limits::MAX_TOKEN_ID_BYTES {
            return refuse(ErrorCode::InvalidRequest, "This is no id of a token".to_owned());
        }
        let lengths = || {
            let principals = renewers.iter().chain([owner, requester]);
            principals.map(|one| one.principal_type.len() + one.name.len())
        };
        if renewers.len() > limits::MAX_TOKEN_RENEWERS
            || lengths().any(|bytes| bytes > limits::MAX_PRINCIPAL_BYTES)
            || lengths().sum::<usize>() > limits::MAX_TOKEN_PRINCIPALS_BYTES
        {
            let (count, bytes) = (limits::MAX_TOKEN_RENEWERS, limits::MAX_PRINCIPAL_BYTES);
            let sum = limits::MAX_TOKEN_PRINCIPALS_BYTES;
            let text = format!(
                "A token has at most {count} renewers, a principal at most {bytes} bytes, and all together {sum}."
            );
            return refuse(ErrorCode::InvalidRequest, text);
        }
        let tokens = || self.ledger.ahead().delegation_tokens();
        let own = tokens().filter(|(_, token)| token.requester == *requester).count();
        if own >= limits::MAX_TOKENS_PER_REQUESTER {
            return refuse(ErrorCode::PolicyViolation, format!("{requester} has asked for {own} tokens, the most."));
        }
        let count = tokens().count();
        if self.ledger.is_full() || count >= limits::MAX_TOKENS {
            let text = format!("The cluster has {count} tokens; at most {} are possible.", limits::MAX_TOKENS);
            return refuse(ErrorCode::PolicyViolation, text);
        }
        Ok(())
    }
}

enum Written {
    Unchanged,
    Put,
    Removed,
}

/// Kafka's order of checks.
fn renewable(token: DelegationToken, by: &KafkaPrincipal, now: TimestampMs) -> Result<DelegationToken, Refusal> {
    if token.is_expired(now) {
        return Err(refusal(ErrorCode::DelegationTokenExpired));
    }
    if !token.may_be_renewed_by(by) {
        return Err(refusal(ErrorCode::DelegationTokenOwnerMismatch));
    }
    Ok(token)
}

fn later(now: TimestampMs, period_ms: i64) -> TimestampMs {
    TimestampMs(now.0.saturating_add(period_ms.max(0)))
}

fn refusal(error: ErrorCode) -> Refusal {
    Refusal::new(error, String::new())
}
