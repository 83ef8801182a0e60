//! Pairs behind Supabase's REST interface, which is `PostgREST`: rows by `GET` with filters in the
//! query, `POST` to add, `PATCH` to change.
//!
//! The service key is opaque. It goes into `apikey` and `Authorization`, never along a redirect, and
//! never into a message.

mod error;
mod filter;

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use reqwest::{
    Method, RequestBuilder, Response,
    header::{self, HeaderMap, HeaderValue},
    redirect,
};
use serde::{Deserialize, Serialize};
use url::Url;

use self::{
    error::{TAKEN, broken, refused},
    filter::{equal, one_of, quoted},
};
use super::{Pair, PairStore, Status, StoreError, is_uuid, redacted::redacted, require_uuids};
use crate::types::{DeviceId, PairId, check_id, is_loopback};

/// Timeout of a request.
const WITHIN: Duration = Duration::from_secs(3);

/// Maximum number of ids in one request: its URL stays below 8 KiB.
const IDS_PER_REQUEST: usize = 100;

/// Rows per response; Supabase returns at most 1000.
const PAGE: usize = 1000;

/// Maximum size of a response, bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Path of the interface in a Supabase project.
const SUPABASE_PATH: &str = "/rest/v1";

const COLUMNS: &str = "id,user_id,mac_device_id,ios_device_id,status,created_at,revoked_at";

/// A row as `PostgREST` writes it: times are RFC 3339.
#[derive(Debug, Serialize, Deserialize)]
struct RowJson {
    id: String,
    user_id: String,
    mac_device_id: String,
    ios_device_id: String,
    status: String,
    created_at: String,
    revoked_at: Option<String>,
}

#[derive(Deserialize)]
struct IdJson {
    id: String,
}

/// Pairs behind a `PostgREST` interface.
#[derive(Debug, Clone)]
pub struct RestPairs {
    table: Url,
    http: reqwest::Client,
}

impl RestPairs {
    /// The table at `url`: of a Supabase project or, if the URL has a path, of any `PostgREST`.
    ///
    /// # Errors
    /// [`StoreError::Open`]: no key, or one that is not a valid header value.
    pub fn new(url: &Url, key: &str) -> Result<Self, StoreError> {
        let open = |cause: &str| StoreError::Open { subject: redacted(url), cause: cause.into() };
        if key.is_empty() {
            return Err(open("the service key is missing: pass it with --db-key @FILE"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(open("a key in the URL is not accepted: pass it with --db-key @FILE"));
        }
        let secret = |text: String| {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| open("the key contains invalid characters: check --db-key"))?;
            value.set_sensitive(true);
            Ok(value)
        };
        let mut headers = HeaderMap::new();
        headers.insert("apikey", secret(key.to_owned())?);
        headers.insert(header::AUTHORIZATION, secret(format!("Bearer {key}"))?);
        // It fails if the process already has a provider.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .default_headers(headers)
            .timeout(WITHIN)
            .redirect(redirect::Policy::none());
        if is_loopback(url) {
            client = client.no_proxy();
        }
        if url.scheme() == "http" {
            // TLS is not used, so no root certificates are needed.
            client = client.tls_certs_only([]);
        }
        let http = client.build().map_err(|error| open(&broken(&error)))?;
        let mut table = url.clone();
        let path = url.path().trim_end_matches('/');
        let path = if path.is_empty() { SUPABASE_PATH } else { path };
        table.set_path(&format!("{path}/device_pairs"));
        table.set_query(None);
        table.set_fragment(None);
        Ok(Self { table, http })
    }

    fn request(&self, method: Method, query: &[(&str, String)]) -> RequestBuilder {
        let mut url = self.table.clone();
        url.query_pairs_mut().extend_pairs(query);
        self.http.request(method, url)
    }

    async fn get<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        query: &[(&str, String)],
    ) -> Result<Vec<T>, StoreError> {
        answer(operation, self.request(Method::GET, query)).await
    }

    async fn pairs(
        &self,
        operation: &'static str,
        filters: &[(&str, String)],
    ) -> Result<Vec<Pair>, StoreError> {
        let mut pairs = Vec::new();
        loop {
            let mut query = vec![("select", COLUMNS.to_owned())];
            query.extend_from_slice(filters);
            query.push(("order", "created_at.asc,id.asc".to_owned()));
            query.push(("limit", PAGE.to_string()));
            query.push(("offset", pairs.len().to_string()));
            let rows: Vec<RowJson> = self.get(operation, &query).await?;
            if rows.is_empty() {
                return Ok(pairs);
            }
            for row in rows {
                pairs.push(row.pair().ok_or_else(|| {
                    StoreError::query(operation, "a row has an invalid time or status")
                })?);
            }
        }
    }
}

impl RowJson {
    fn new(pair: &Pair) -> Self {
        Self {
            id: pair.id.to_string(),
            user_id: pair.user_id.clone(),
            mac_device_id: pair.mac.to_string(),
            ios_device_id: pair.ios.to_string(),
            status: pair.status.as_str().to_owned(),
            created_at: time(pair.created_at),
            revoked_at: pair.revoked_at.map(time),
        }
    }

    fn pair(self) -> Option<Pair> {
        let seconds = |text: String| {
            let at: jiff::Timestamp = text.parse().ok()?;
            u64::try_from(at.as_second()).ok()
        };
        Some(Pair {
            id: PairId(self.id),
            user_id: self.user_id,
            mac: DeviceId(self.mac_device_id),
            ios: DeviceId(self.ios_device_id),
            status: Status::parse(&self.status)?,
            created_at: seconds(self.created_at)?,
            revoked_at: match self.revoked_at {
                Some(at) => Some(seconds(at)?),
                None => None,
            },
        })
    }
}

fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Sends a request and reads the rows of the response.
async fn answer<T: for<'de> Deserialize<'de>>(
    operation: &'static str,
    request: RequestBuilder,
) -> Result<Vec<T>, StoreError> {
    let sent = request.send().await.map_err(|e| StoreError::query(operation, broken(&e)))?;
    let status = sent.status();
    let body = read(operation, sent).await?;
    if !status.is_success() {
        return Err(refused(operation, status, &body));
    }
    serde_json::from_slice(&body)
        .map_err(|_| StoreError::query(operation, "the response is not a list of rows: check --db"))
}

async fn read(operation: &'static str, mut response: Response) -> Result<Vec<u8>, StoreError> {
    let mut body = Vec::new();
    while let Some(bytes) =
        response.chunk().await.map_err(|e| StoreError::query(operation, broken(&e)))?
    {
        if body.len() + bytes.len() > MAX_ANSWER {
            return Err(StoreError::query(
                operation,
                format!("the response is larger than {MAX_ANSWER} bytes"),
            ));
        }
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

#[async_trait]
impl PairStore for RestPairs {
    async fn active_pair(&self, id: &PairId) -> Result<Option<Pair>, StoreError> {
        if !is_uuid(id.as_str()) {
            return Ok(None);
        }
        let operation = "look up a pair";
        let query = [
            ("select", COLUMNS.to_owned()),
            ("id", equal(id.as_str())),
            ("status", equal("active")),
            ("limit", "1".to_owned()),
        ];
        let rows: Vec<RowJson> = self.get(operation, &query).await?;
        let row = rows.into_iter().next();
        row.map(|row| {
            row.pair().filter(|pair| pair.id == *id && pair.status == Status::Active).ok_or_else(
                || StoreError::query(operation, "the response is not the requested pair"),
            )
        })
        .transpose()
    }

    async fn pairs_of(&self, user_id: &str, device: &DeviceId) -> Result<Vec<Pair>, StoreError> {
        if !is_uuid(user_id) || check_id(device.as_str()).is_err() {
            return Ok(Vec::new());
        }
        let device = quoted(device.as_str());
        let either = format!("(mac_device_id.eq.{device},ios_device_id.eq.{device})");
        let filters = [("user_id", equal(user_id)), ("status", equal("active")), ("or", either)];
        self.pairs("look up the pairs of a device", &filters).await
    }

    async fn still_active(&self, ids: &[PairId]) -> Result<HashSet<PairId>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(PairId::as_str).filter(|id| is_uuid(id)).collect();
        let mut active = HashSet::new();
        for some in ids.chunks(IDS_PER_REQUEST) {
            let query =
                [("select", "id".to_owned()), ("id", one_of(some)), ("status", equal("active"))];
            let rows: Vec<IdJson> = self.get("check live pairs", &query).await?;
            active.extend(rows.into_iter().map(|row| PairId(row.id)));
        }
        Ok(active)
    }

    async fn insert(&self, pair: &Pair) -> Result<bool, StoreError> {
        require_uuids(pair)?;
        let request = self
            .request(Method::POST, &[("select", "id".to_owned())])
            .header("Prefer", "return=representation")
            .json(&RowJson::new(pair));
        let added: Result<Vec<IdJson>, _> = answer("add a pair", request).await;
        match added {
            Err(StoreError::Rule { rule, .. }) if rule == TAKEN => Ok(false),
            Err(StoreError::Rule { rule, .. }) => {
                Err(StoreError::Rule { id: pair.id.clone(), rule })
            }
            other => other.map(|_| true),
        }
    }

    async fn list(&self) -> Result<Vec<Pair>, StoreError> {
        self.pairs("list the pairs", &[]).await
    }

    async fn revoke(&self, id: &PairId, now: u64) -> Result<bool, StoreError> {
        if !is_uuid(id.as_str()) {
            return Ok(false);
        }
        let operation = "revoke a pair";
        let query = [
            ("id", equal(id.as_str())),
            ("status", "neq.revoked".to_owned()),
            ("select", "id".to_owned()),
        ];
        let request = self
            .request(Method::PATCH, &query)
            .header("Prefer", "return=representation")
            .json(&serde_json::json!({"status": "revoked", "revoked_at": time(now)}));
        let changed: Vec<IdJson> = answer(operation, request).await?;
        // Row-level security hides rows from a writer without an error.
        if changed.is_empty() && self.active_pair(id).await?.is_some() {
            let cause = "the key may read this pair, but not modify it: use the service key";
            return Err(StoreError::query(operation, cause));
        }
        Ok(!changed.is_empty())
    }

    async fn ready(&self) -> Result<(), StoreError> {
        let query = [("select", "id".to_owned()), ("limit", "1".to_owned())];
        self.get::<IdJson>("read the table", &query).await.map(|_| ())
    }
}
