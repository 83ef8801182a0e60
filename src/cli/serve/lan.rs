//! `serve --lan`: a dev server for phones on the local network. It listens on all interfaces, signs with a
//! random secret, creates a certificate, and has the dev server's pair and a random login token; nothing is
//! accepted without a token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use qrcode::{Color, EcLevel, QrCode};

use super::{ServeArgs, tls::TlsArgs};
use crate::{
    auth::login::random_login, cli::failure::Failure, server, tls::certificate::Fingerprint,
};

/// Default port of `--lan`, same as the dev server's.
const PORT: u16 = 8787;

/// Width of the quiet zone around a QR code in modules: two are enough for phone cameras.
const QUIET: usize = 2;

/// Flags of `serve` for the local network.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Local network")]
pub struct LanArgs {
    /// Serve phones on the local network: listen on all interfaces, with a random signing secret and login token, a
    /// temporary certificate and the pair `demo` in memory; print the URL and commands for the other devices
    #[arg(long)]
    pub lan: bool,
    /// With --lan: use ws:// and http:// instead of TLS, for apps that cannot pin a certificate
    #[arg(long)]
    pub no_tls: bool,
    /// With --lan: show the QR code of the join URL even if the terminal is not known to be wide enough. The URL is
    /// https://HOST:PORT/#device=ID&pair=ID&login=TOKEN&pin=SHA256 (http:// and no pin with --no-tls); open it in a
    /// browser or scan it in the app
    #[arg(long)]
    pub qr: bool,
}

/// The credentials of a phone on the local network.
pub(super) struct Access {
    /// Login token for the token API.
    pub login: String,
}

impl Access {
    /// Generates a login token.
    pub(super) fn random() -> Self {
        Self { login: random_login() }
    }

    /// Everything a phone needs, as one URL: the page of the server, and the credentials in the fragment, which
    /// browsers do not send.
    pub(super) fn join_url(&self, page: &str, pin: Option<Fingerprint>) -> String {
        let (device, pair) = (server::DEV_PHONE, server::DEV_PAIR);
        let pin = pin.map_or_else(String::new, |pin| format!("&pin={pin}"));
        format!("{page}#device={device}&pair={pair}&login={}{pin}", self.login)
    }
}

/// Adds the defaults of `--lan` to the flags.
///
/// # Errors
/// Exit code 2: a flag that conflicts with `--lan`.
pub(super) fn resolve(mut args: ServeArgs) -> Result<ServeArgs, Failure> {
    if !args.lan.lan {
        let alone = [("--no-tls", args.lan.no_tls), ("--qr", args.lan.qr)];
        return match alone.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => Err(Failure::usage(
                format!("{flag} requires --lan"),
                format!("add --lan, or omit {flag}"),
            )),
            None => Ok(args),
        };
    }
    if let Some((flag, why)) = contradiction(&args) {
        return Err(Failure::usage(
            format!("--lan cannot be used with {flag}: {why}"),
            format!(
                "omit {flag} (also as a variable and in orion-peer.toml), or configure a server without --lan"
            ),
        ));
    }
    let listen = args.listen.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT));
    if listen.ip().is_loopback() {
        return Err(Failure::usage(
            format!(
                "--lan serves other machines, but {listen} is reachable only from this machine"
            ),
            "omit --listen, or use --listen 0.0.0.0:PORT",
        ));
    }
    args.listen = Some(listen);
    let TlsArgs { tls_cert, tls_key, tls_self_signed } = &mut args.tls;
    if !args.lan.no_tls && tls_cert.is_none() && tls_key.is_none() {
        *tls_self_signed = true;
    }
    args.page = true;
    Ok(args)
}

/// The relay address of a server on `listen`: the relay uses a single address family, and every local network has
/// IPv4.
pub(super) fn relay_listen(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), listen.port())
        }
        _ => listen,
    }
}

/// A flag that conflicts with `--lan`, and the reason.
fn contradiction(args: &ServeArgs) -> Option<(&'static str, &'static str)> {
    let tls = args.tls.tls_self_signed || args.tls.tls_cert.is_some() || args.tls.tls_key.is_some();
    let own_login = "it generates its own login token";
    [
        ("--db", args.store.has_place(), "it keeps its pairs in memory"),
        ("--login-jwks", args.login.login_jwks.is_some(), own_login),
        ("--login-issuer", args.login.login_issuer.is_some(), own_login),
        ("--jwt-jwks", args.login.jwt_jwks.is_some(), "it signs its own tokens"),
        ("--bus", args.bus.bus.is_some(), "it is a single node"),
        ("--no-tls", args.lan.no_tls && tls, "a certificate was requested"),
    ]
    .into_iter()
    .find_map(|(flag, given, why)| given.then_some((flag, why)))
}

/// A QR code (ISO/IEC 18004) of `text` in half blocks, drawn light on dark; `None` if the text is too long.
#[must_use]
pub fn qr(text: &str) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let (width, modules) = (code.width(), code.to_colors());
    let light = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(QUIET).filter(|at| *at < width);
        let (Some(x), Some(y)) = (inside(x), inside(y)) else { return true };
        modules.get(y * width + x) != Some(&Color::Dark)
    };
    let side = width + 2 * QUIET;
    let line = |row: usize| {
        let module =
            |x: usize| match (light(x, 2 * row), 2 * row + 1 >= side || light(x, 2 * row + 1)) {
                (true, true) => '\u{2588}',
                (true, false) => '\u{2580}',
                (false, true) => '\u{2584}',
                (false, false) => ' ',
            };
        (0..side).map(module).collect()
    };
    Some((0..side.div_ceil(2)).map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_join_url_has_everything_a_phone_needs() {
        let access = Access::random();
        let other = Access::random();
        assert!(access.login.len() == 26 && access.login != other.login);
        let pin: Fingerprint = "ab".repeat(32).parse().unwrap();
        let url = access.join_url("https://192.0.2.7:8787/", Some(pin));
        let read = url::Url::parse(&url).unwrap();
        assert_eq!(read.host_str(), Some("192.0.2.7"));
        let fragment = read.fragment().unwrap();
        let fields: Vec<_> = url::form_urlencoded::parse(fragment.as_bytes()).collect();
        let field = |name: &str| {
            fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.to_string())
        };
        assert_eq!(field("device").as_deref(), Some("phone"));
        assert_eq!(field("pair").as_deref(), Some("demo"));
        assert_eq!(field("login"), Some(access.login.clone()));
        assert_eq!(field("pin"), Some("ab".repeat(32)));
        assert!(!access.join_url("http://192.0.2.7:8787/", None).contains("pin"));
    }

    /// The drawn modules; true is light.
    fn drawn(lines: &[String]) -> Vec<Vec<bool>> {
        let halves = |line: &String, upper: bool| {
            let light = |c: char| match c {
                '\u{2588}' => true,
                '\u{2580}' => upper,
                '\u{2584}' => !upper,
                _ => false,
            };
            line.chars().map(light).collect()
        };
        lines.iter().flat_map(|line| [halves(line, true), halves(line, false)]).collect()
    }

    #[test]
    fn a_qr_code_is_drawn_completely_and_fits_a_terminal() {
        let pin: Fingerprint = "0123456789abcdef".repeat(4).parse().unwrap();
        let page = "https://[2001:db8:1234:5678:9abc:def0:1234:5678]:65535/";
        let url = Access::random().join_url(page, Some(pin));
        let lines = qr(&url).unwrap();
        assert!(
            lines.iter().all(|line| line.chars().count() <= 80),
            "{}",
            lines[0].chars().count()
        );
        let (rows, code) =
            (drawn(&lines), QrCode::with_error_correction_level(&url, EcLevel::L).unwrap());
        let width = code.width();
        for y in 0..width {
            for x in 0..width {
                let dark = code[(x, y)] == Color::Dark;
                assert_eq!(rows[y + QUIET][x + QUIET], !dark, "{x} {y}");
            }
        }
        // The quiet zone on all sides.
        assert!(rows[..QUIET].iter().chain(&rows[width + QUIET..]).flatten().all(|light| *light));
        assert!(
            rows.iter()
                .all(|row| row[..QUIET].iter().chain(&row[width + QUIET..]).all(|light| *light))
        );
        assert_eq!(qr(&"x".repeat(5000)), None);
    }
}
