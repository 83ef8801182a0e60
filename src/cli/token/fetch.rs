//! `token fetch`: fetch a signaling token from the token API, as `send` and `recv` do.

use serde::Serialize;

use crate::{
    cli::{connect::EndpointArgs, failure::Failure, output::Output},
    proto::token::IceServer,
    report::human,
    signaling::client::token_client::TokenClient,
};

/// Flags of `token fetch`.
#[derive(Debug, clap::Args)]
pub struct FetchArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fetched<'a> {
    kind: &'static str,
    token: &'a str,
    pair_id: &'a str,
    expires_at: &'a str,
    expires_in: u64,
    ice_servers: &'a [IceServer],
}

/// Fetches the token and writes it to stdout; with `--json`, the whole response.
///
/// # Errors
/// A flag is not valid, or the token API does not return a token.
pub async fn run(args: &FetchArgs, output: Output) -> Result<(), Failure> {
    let endpoint = args.endpoint.endpoint("phone")?;
    let (url, access_token) = args.endpoint.token_api()?;
    let trust = args.endpoint.trust()?;
    let answer =
        match TokenClient::new(url.as_str(), access_token.expose(), endpoint.device, endpoint.pair)
            .and_then(|client| client.trusting(&trust))
        {
            Ok(client) => client.fetch().await,
            Err(error) => Err(error),
        }
        .map_err(|error| Failure::new(error.stage(), error.to_string(), error.remedy()))?;
    output.line(format!(
        "token for pair {}, valid for {} s, {}",
        answer.pair_id,
        answer.expires_in,
        human::counted(answer.ice_servers.len() as u64, "ICE server")
    ));
    output.event(&Fetched {
        kind: "token",
        token: &answer.token,
        pair_id: answer.pair_id.as_str(),
        expires_at: &answer.expires_at,
        expires_in: answer.expires_in,
        ice_servers: &answer.ice_servers,
    })?;
    output.result(&answer.token)
}
