//! `kafka-delegation-tokens`: tokens are made, renewed, ended and shown.

use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ottla_client::DescribedToken;
use ottla_model::{KafkaPrincipal, TimestampMs};

use super::options::{OptionSpec, Options, OptionsError, flag, maybe_value, value};
use super::{ToolError, bootstrap, run_tool};
use crate::calendar::civil;
use crate::kafka::{Kafka, KafkaError};
use crate::{err, out};

pub(super) static SPECS: &[OptionSpec] = &[
    value("bootstrap-server", "String", "REQUIRED: The Kafka servers to connect to."),
    value("command-config", "String", "REQUIRED: A file with a client's properties: how it logs in."),
    flag("create", "Create a token; with --renewer-principal, who else may renew it."),
    flag("describe", "Describe tokens: those of --owner-principal, or all that the user may see."),
    flag("expire", "End a token after --expiry-time-period."),
    maybe_value("expiry-time-period", "Long", "The time until the token ends, in milliseconds; -1: at once."),
    flag("help", "Print usage information."),
    maybe_value("hmac", "String", "The HMAC of the token."),
    maybe_value(
        "max-life-time-period",
        "Long",
        "The longest life of the token in milliseconds; -1: the brokers' delegation.token.max.lifetime.ms.",
    ),
    maybe_value("owner-principal", "String", "The owner of the token, as principalType:name."),
    flag("renew", "Renew a token for --renew-time-period."),
    maybe_value(
        "renew-time-period",
        "Long",
        "The time of the renewal in milliseconds; -1: the brokers' delegation.token.expiry.time.ms.",
    ),
    maybe_value("renewer-principal", "String", "Who may renew the token, as principalType:name."),
    flag("version", "Display the version."),
];

const ACTIONS: [&str; 4] = ["create", "renew", "expire", "describe"];

#[derive(Clone, PartialEq, Eq, Debug)]
enum Action {
    Create {
        owner: Option<KafkaPrincipal>,
        renewers: Vec<KafkaPrincipal>,
        lifetime_ms: i64,
    },
    Renew {
        hmac: String,
        period_ms: i64,
    },
    Expire {
        hmac: String,
        period_ms: i64,
    },
    /// No owners: all tokens that the user may see.
    Describe(Vec<KafkaPrincipal>),
}

/// What the tool says to a line without any word.
const PURPOSE: &str = "This tool helps to create, renew, expire, or describe delegation tokens.";

pub async fn run(arguments: &[String]) -> ExitCode {
    run_tool(PURPOSE, SPECS, arguments, plan, |(bootstrap, action)| async move {
        match execute(&bootstrap, &action).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let shown = match &error {
                    ToolError::Kafka(error) => super::exceptions::shown(error),
                    other => other.to_string(),
                };
                err!("{shown}\njava.util.concurrent.ExecutionException: {shown}");
                ExitCode::FAILURE
            }
        }
    })
    .await
}

fn plan(options: &Options) -> Result<(String, Action), ToolError> {
    if ACTIONS.iter().filter(|action| options.has(action)).count() != 1 {
        let text = "Command must include exactly one action: --create, --renew, --expire or --describe";
        return Err(ToolError::Usage(text.to_owned()));
    }
    let bootstrap = bootstrap(options)?.to_owned();
    options.required("command-config")?;
    let required: &[&'static str] = if options.has("create") {
        &["max-life-time-period"]
    } else if options.has("renew") {
        &["hmac", "renew-time-period"]
    } else if options.has("expire") {
        &["hmac", "expiry-time-period"]
    } else {
        &[]
    };
    for name in required {
        options.required(name)?;
    }
    conflicts(options)?;
    let hmac = || options.required("hmac").map(str::to_owned);
    let ms = |name: &'static str| options.number::<i64>(name)?.ok_or(OptionsError::Missing(name));
    let action = if options.has("create") {
        Action::Create {
            owner: principals(options, "owner-principal")?.into_iter().next(),
            renewers: principals(options, "renewer-principal")?,
            lifetime_ms: ms("max-life-time-period")?,
        }
    } else if options.has("renew") {
        Action::Renew { hmac: hmac()?, period_ms: ms("renew-time-period")? }
    } else if options.has("expire") {
        Action::Expire { hmac: hmac()?, period_ms: ms("expiry-time-period")? }
    } else {
        Action::Describe(principals(options, "owner-principal")?)
    };
    Ok((bootstrap, action))
}

/// What stands beside no action but its own.
fn conflicts(options: &Options) -> Result<(), OptionsError> {
    let of_action: [(&'static str, &[&'static str]); 4] = [
        ("create", &["hmac", "renew-time-period", "expiry-time-period"]),
        ("renew", &["renewer-principal", "max-life-time-period", "expiry-time-period", "owner-principal"]),
        ("expire", &["renewer-principal", "max-life-time-period", "renew-time-period", "owner-principal"]),
        ("describe", &["renewer-principal", "renew-time-period", "max-life-time-period", "hmac", "expiry-time-period"]),
    ];
    for (action, others) in of_action.into_iter().filter(|(action, _)| options.has(action)) {
        if let Some(other) = others.iter().find(|other| options.has(other)) {
            return Err(OptionsError::Conflict(action, other));
        }
    }
    Ok(())
}

fn principals(options: &Options, name: &'static str) -> Result<Vec<KafkaPrincipal>, ToolError> {
    let principal = |text: &String| {
        let text = text.trim();
        text.parse().map_err(|_| {
            ToolError::Argument(format!("expected a string in format principalType:principalName but got {text}"))
        })
    };
    options.all(name).iter().map(principal).collect()
}

async fn execute(bootstrap: &str, action: &Action) -> Result<(), ToolError> {
    let kafka = Kafka::connect(bootstrap).await?;
    let client = kafka.client();
    match action {
        Action::Create { owner, renewers, lifetime_ms } => {
            let shown = list(renewers);
            out!("Calling create token operation with renewers :{shown} , max-life-time-period :{lifetime_ms}");
            let made = client.create_delegation_token(owner.as_ref(), renewers, *lifetime_ms).await;
            let made = made.map_err(KafkaError::from)?;
            out!("Created delegation token with tokenId : {}", made.id);
            out!("{}", table(&[made]));
        }
        Action::Renew { hmac, period_ms } => {
            out!("Calling renew token operation with hmac :{hmac} , renew-time-period :{period_ms}");
            let renewed = client.renew_delegation_token(&decoded(hmac)?, *period_ms).await;
            out!("Completed renew operation. New expiry date : {}", date(renewed.map_err(KafkaError::from)?));
        }
        Action::Expire { hmac, period_ms } => {
            out!("Calling expire token operation with hmac :{hmac} , expire-time-period :{period_ms}");
            let ended = client.expire_delegation_token(&decoded(hmac)?, *period_ms).await;
            out!("Completed expire operation. New expiry date : {}", date(ended.map_err(KafkaError::from)?));
        }
        Action::Describe(owners) => {
            let owners = (!owners.is_empty()).then_some(owners.as_slice());
            match owners {
                Some(owners) => out!("Calling describe token operation for owners: {}", list(owners)),
                None => out!("Calling describe token operation for current user."),
            }
            let tokens = client.describe_delegation_tokens(owners).await.map_err(KafkaError::from)?;
            out!("Total number of tokens : {}{}", tokens.len(), table(&tokens));
        }
    }
    Ok(())
}

fn decoded(hmac: &str) -> Result<Vec<u8>, ToolError> {
    STANDARD.decode(hmac).map_err(|_| ToolError::Argument("the HMAC is not base64".to_owned()))
}

/// As Java writes a list.
fn list(principals: &[KafkaPrincipal]) -> String {
    format!("[{}]", principals.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

/// Kafka's table: an empty line before each row.
fn table(tokens: &[DescribedToken]) -> String {
    let row = |cells: [&str; 8]| {
        let [id, hmac, owner, requester, renewers, issued, expires, max] = cells;
        format!(
            "\n{id:<15} {hmac:<30} {owner:<15} {requester:<15} {renewers:<25} {issued:<15} {expires:<15} {max:<15}\n"
        )
    };
    let mut text = row(["TOKENID", "HMAC", "OWNER", "REQUESTER", "RENEWERS", "ISSUEDATE", "EXPIRYDATE", "MAXDATE"]);
    for token in tokens {
        text += &row([
            &token.id,
            &STANDARD.encode(&token.hmac),
            &token.owner.to_string(),
            &token.requester.to_string(),
            &list(&token.renewers),
            &date(token.issued),
            &date(token.expires),
            &date(token.max),
        ]);
    }
    text.trim_end_matches('\n').to_owned()
}

/// `2026-11-21T09:16`, in UTC.
fn date(time: TimestampMs) -> String {
    // -1 for a token that ended at once: Kafka's tool shows the last minute of 1969.
    let seconds = time.0.div_euclid(1_000);
    let Ok(seconds) = u64::try_from(seconds) else { return "1969-12-31T23:59".to_owned() };
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}", seconds / 3_600 % 24, seconds / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka_tools::planned;

    fn action(line: &str) -> Result<Action, String> {
        planned(SPECS, &format!("--bootstrap-server k --command-config f {line}"), plan).map(|(_, action)| action)
    }

    #[test]
    fn lines_are_read_as_kafkas_tool_does() {
        let user = KafkaPrincipal::user;
        assert_eq!(
            action("--create --max-life-time-period -1 --renewer-principal User:b --owner-principal User:a"),
            Ok(Action::Create { owner: Some(user("a")), renewers: vec![user("b")], lifetime_ms: -1 })
        );
        let hmac = || "aGk=".to_owned();
        assert_eq!(
            action("--renew --hmac aGk= --renew-time-period 5"),
            Ok(Action::Renew { hmac: hmac(), period_ms: 5 })
        );
        assert_eq!(
            action("--expire --hmac aGk= --expiry-time-period -1"),
            Ok(Action::Expire { hmac: hmac(), period_ms: -1 })
        );
        assert_eq!(action("--describe"), Ok(Action::Describe(Vec::new())));
        let text = |line| action(line).expect_err("wrong");
        assert!(text("--create --describe").starts_with("Command must include exactly one action"));
        assert_eq!(text("--create"), "Missing required argument \"[max-life-time-period]\"");
        assert_eq!(text("--renew --renew-time-period 1"), "Missing required argument \"[hmac]\"");
        assert_eq!(
            text("--create --max-life-time-period -1 --hmac x"),
            "Option \"[create]\" can't be used with option \"[hmac]\""
        );
        let without_login = planned(SPECS, "--bootstrap-server k --describe", plan).expect_err("no login");
        assert_eq!(without_login, "Missing required argument \"[command-config]\"");
    }

    #[test]
    fn tokens_are_shown_as_kafkas_tool_does() {
        let token = DescribedToken {
            id: "t".to_owned(),
            hmac: b"hi".to_vec(),
            owner: KafkaPrincipal::user("a"),
            requester: KafkaPrincipal::user("a"),
            renewers: vec![KafkaPrincipal::user("b"), KafkaPrincipal::user("c")],
            issued: TimestampMs(0),
            expires: TimestampMs(90_000),
            max: TimestampMs(86_400_000),
        };
        let shown = table(&[token]);
        let rows: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows.len(), 4);
        let dates = ["1970-01-01T00:00", "1970-01-01T00:01", "1970-01-02T00:00"];
        assert_eq!(rows[3], [&["t", "aGk=", "User:a", "User:a", "[User:b,", "User:c]"], &dates[..]].concat());
        assert_eq!(date(TimestampMs(-1)), "1969-12-31T23:59");
    }
}
