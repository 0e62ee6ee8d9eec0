//! What clients log in with: passwords and tokens that were given out at some time, mostly the newest.

use std::collections::BTreeMap;

use ottla_sasl::scram::ITERATIONS_MIN;
use ottla_sasl::{ClientCredentials, Mechanism, ScramCredential, ScramHash, TokenSecret};

use super::user_of;
use crate::clock::SimTime;
use crate::random::Random;

const HASH: ScramHash = ScramHash::Sha256;
/// Of every credential here, as the tree names it.
pub const MECHANISM: &str = "SCRAM-SHA-256";
/// `delegation.token.secret.key` of the brokers.
pub const TOKEN_SECRET: &str = "the brokers' secret";

/// A client that was refused comes back so much later.
const PAUSE_MS: u64 = 400;

struct Password {
    text: String,
    /// What the tree has of it.
    credential: String,
}

pub struct Logins {
    random: Random,
    passwords: BTreeMap<String, Vec<Password>>,
    tokens: BTreeMap<String, Vec<String>>,
    /// When each client may try again at each broker.
    retry_at: BTreeMap<(u32, i32), SimTime>,
}

impl Logins {
    pub fn new(clients: &[u32], random: Random) -> Self {
        let passwords = clients.iter().map(|client| (user_of(*client), Vec::new())).collect();
        Self { random, passwords, tokens: BTreeMap::new(), retry_at: BTreeMap::new() }
    }

    pub fn users(&self) -> Vec<String> {
        self.passwords.keys().cloned().collect()
    }

    /// The credential of a new password.
    pub fn new_password(&mut self, user: &str) -> String {
        let text = format!("{user} {:016x}", self.random.next_u64());
        let salt = self.random.bytes_16().to_vec();
        let credential = ScramCredential::of_password(HASH, &text, salt, ITERATIONS_MIN).to_text();
        self.passwords.entry(user.to_owned()).or_default().push(Password { text, credential: credential.clone() });
        credential
    }

    pub fn new_token(&mut self, user: &str) -> String {
        let id = format!("token-{:016x}", self.random.next_u64());
        self.tokens.entry(user.to_owned()).or_default().push(id.clone());
        id
    }

    pub fn tokens_of(&self, user: &str) -> &[String] {
        self.tokens.get(user).map_or(&[], Vec::as_slice)
    }

    /// The credential of one of a user's passwords.
    pub fn credential_of(&self, user: &str, password: &str) -> Option<&str> {
        let known = self.passwords.get(user)?.iter().find(|known| known.text == password);
        known.map(|known| known.credential.as_str())
    }

    /// The newest password of a user.
    pub fn password_of(&self, user: &str) -> Option<ClientCredentials> {
        let password = self.passwords.get(user)?.last()?.text.clone();
        Some(ClientCredentials { mechanism: Mechanism::Scram(HASH), user: user.to_owned(), password, is_token: false })
    }

    pub fn credentials_of_token(id: &str) -> ClientCredentials {
        let (mechanism, password) = (Mechanism::Scram(HASH), TokenSecret::new(TOKEN_SECRET).password(id));
        ClientCredentials { mechanism, user: id.to_owned(), password, is_token: true }
    }

    /// What a client tries at a broker now; none while it waits after a refusal.
    pub fn attempt(&mut self, at: SimTime, client: u32, broker: i32) -> Option<ClientCredentials> {
        if self.retry_at.get(&(client, broker)).is_some_and(|again| at < *again) {
            return None;
        }
        let user = user_of(client);
        let (mechanism, random) = (Mechanism::Scram(HASH), &mut self.random);
        let tokens = self.tokens.get(&user).map_or(&[][..], Vec::as_slice);
        if random.percent(25)
            && let Some(id) = random.pick(tokens)
        {
            return Some(Self::credentials_of_token(id));
        }
        let passwords = self.passwords.get(&user)?;
        let password = if random.percent(80) { passwords.last() } else { random.pick(passwords) };
        let password = password.map_or_else(|| "none yet".to_owned(), |password| password.text.clone());
        Some(ClientCredentials { mechanism, user, password, is_token: false })
    }

    pub fn refused(&mut self, at: SimTime, client: u32, broker: i32) {
        self.retry_at.insert((client, broker), at.plus_ms(PAUSE_MS));
    }
}
