//! A strict implementation of the part of `PostgREST` that the store uses: filters, projection, order, paging,
//! `Prefer`, keys, the table's constraints. It rejects everything else.

use std::{
    cmp::Ordering,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// Key with all permissions.
pub const SERVICE_KEY: &str = "sb_secret_service";

/// Read-only key: row-level security hides all rows from its changes.
pub const READER_KEY: &str = "sb_publishable_reader";

/// Maximum number of rows in a response (Supabase's setting "max rows").
const MAX_ROWS: usize = 3;

const COLUMNS: [&str; 7] =
    ["id", "user_id", "mac_device_id", "ios_device_id", "status", "created_at", "revoked_at"];

/// Behavior of the server.
#[derive(Debug, Clone)]
pub enum Mode {
    Rows,
    Answer(u16, &'static str),
    Redirect,
    Slow,
    Huge,
    /// The connection ends within the body.
    Cut,
}

type Row = Map<String, Value>;

struct Shared {
    rows: Mutex<Vec<Row>>,
    mode: Mutex<Mode>,
    redirected: AtomicUsize,
}

pub struct Stub {
    pub url: String,
    shared: Arc<Shared>,
}

impl Stub {
    pub async fn start() -> Self {
        let shared = Arc::new(Shared {
            rows: Mutex::default(),
            mode: Mutex::new(Mode::Rows),
            redirected: AtomicUsize::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum_serve(listener, router).await });
        Self { url, shared }
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Number of requests that followed a redirect.
    pub fn redirected(&self) -> usize {
        self.shared.redirected.load(Relaxed)
    }
}

async fn axum_serve(listener: tokio::net::TcpListener, router: Router) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let service = hyper_util::service::TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let io = hyper_util::rt::TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

/// An error response: status, code, message.
type Refusal = (u16, &'static str, String);

fn refuse<T>(status: u16, code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err((status, code, message.into()))
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if uri.path() == "/elsewhere" {
        shared.redirected.fetch_add(1, Relaxed);
    }
    let mode = shared.mode.lock().unwrap().clone();
    match mode {
        Mode::Rows => {}
        Mode::Answer(status, text) => {
            return (StatusCode::from_u16(status).unwrap(), text).into_response();
        }
        Mode::Redirect => {
            return (StatusCode::FOUND, [(header::LOCATION, "/elsewhere")]).into_response();
        }
        Mode::Slow => tokio::time::sleep(Duration::from_hours(1)).await,
        Mode::Huge => return format!("[\"{}\"]", "x".repeat(5_000_000)).into_response(),
        Mode::Cut => {
            let parts = [Ok("[{"), Err(std::io::Error::other("cut"))];
            return Body::from_stream(futures_util::stream::iter(parts)).into_response();
        }
    }
    match rows(&shared, &method, &uri, &headers, &body) {
        Ok((status, rows)) => (status, axum::Json(rows)).into_response(),
        Err((status, code, message)) => {
            let body = json!({"code": code, "message": message, "details": null, "hint": null});
            (StatusCode::from_u16(status).unwrap(), axum::Json(body)).into_response()
        }
    }
}

fn rows(
    shared: &Shared,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(StatusCode, Vec<Value>), Refusal> {
    let header = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
    let key = header("apikey");
    if header("authorization") != format!("Bearer {key}")
        || ![SERVICE_KEY, READER_KEY].contains(&key)
    {
        return refuse(401, "PGRST301", "Invalid API key");
    }
    if uri.path() != "/rest/v1/device_pairs" {
        return refuse(404, "PGRST205", format!("there is no {}", uri.path()));
    }
    let query = Query::parse(uri.query().unwrap_or_default())?;
    let mut table = shared.rows.lock().unwrap();
    let representation = header("prefer").contains("return=representation");
    let shown = match *method {
        Method::GET => query.page(table.iter().filter(|row| query.matches(row)).cloned().collect()),
        Method::POST if key == READER_KEY => {
            return refuse(403, "42501", "permission denied for table device_pairs");
        }
        Method::POST => {
            let row = object(body)?;
            add(&mut table, &row)?;
            return Ok((StatusCode::CREATED, query.project(vec![row], representation)));
        }
        Method::PATCH => {
            if key == READER_KEY {
                return Ok((StatusCode::OK, Vec::new()));
            }
            let changes = object(body)?;
            let mut changed = Vec::new();
            for row in table.iter_mut().filter(|row| query.matches(row)) {
                row.extend(changes.clone());
                changed.push(row.clone());
            }
            return Ok((StatusCode::OK, query.project(changed, representation)));
        }
        _ => return refuse(405, "PGRST117", "Unsupported HTTP method"),
    };
    Ok((StatusCode::OK, query.project(shown, true)))
}

/// A row as the database would return it: times with an offset.
fn object(body: &[u8]) -> Result<Row, Refusal> {
    let Ok(mut row) = serde_json::from_slice::<Row>(body) else {
        return refuse(400, "PGRST102", "Empty or invalid json");
    };
    if let Some(unknown) = row.keys().find(|key| !COLUMNS.contains(&key.as_str())) {
        return refuse(400, "PGRST204", format!("there is no column {unknown}"));
    }
    for column in ["created_at", "revoked_at"] {
        if let Some(Value::String(time)) = row.get_mut(column) {
            time.parse::<jiff::Timestamp>().expect("a time");
            *time = time.replace('Z', "+00:00");
        }
    }
    Ok(row)
}

fn add(table: &mut Vec<Row>, row: &Row) -> Result<(), Refusal> {
    let empty = |column: &str| row[column] == "";
    if empty("mac_device_id")
        || empty("ios_device_id")
        || row["mac_device_id"] == row["ios_device_id"]
        || (row["status"] == "revoked") == row["revoked_at"].is_null()
    {
        return refuse(400, "23514", "new row violates check constraint");
    }
    let same = |other: &Row, columns: &[&str]| columns.iter().all(|c| other[*c] == row[*c]);
    let active = |other: &Row| same(other, &["mac_device_id", "ios_device_id", "status"]);
    if table.iter().any(|o| same(o, &["id"]) || (row["status"] == "active" && active(o))) {
        return refuse(409, "23505", "duplicate key value violates unique constraint");
    }
    table.push(row.clone());
    Ok(())
}

/// Whether a column has one of the values or, if negated (`neq`), none of them.
#[derive(Debug)]
struct Condition {
    column: String,
    negated: bool,
    values: Vec<String>,
}

#[derive(Debug, Default)]
struct Query {
    /// All must match; each matches when one of its conditions does.
    filters: Vec<Vec<Condition>>,
    select: Vec<String>,
    order: Vec<String>,
    limit: Option<usize>,
    offset: usize,
}

impl Query {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let mut query = Self::default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "select" => query.select = value.split(',').map(str::to_owned).collect(),
                "order" => query.order = ascending(&value)?,
                "limit" => query.limit = Some(value.parse().unwrap()),
                "offset" => query.offset = value.parse().unwrap(),
                "or" => query.filters.push(either(&value)?),
                column => query.filters.push(vec![condition(column, &value)?]),
            }
        }
        let columns = query.filters.iter().flatten().map(|condition| &condition.column);
        for column in columns.chain(&query.select).chain(&query.order) {
            if !COLUMNS.contains(&column.as_str()) {
                return refuse(400, "42703", format!("column {column} does not exist"));
            }
        }
        Ok(query)
    }

    fn matches(&self, row: &Row) -> bool {
        let holds = |condition: &Condition| {
            let value = row[&condition.column].as_str().unwrap_or_default();
            condition.values.iter().any(|one| one == value) != condition.negated
        };
        self.filters.iter().all(|filter| filter.iter().any(holds))
    }

    fn page(&self, mut rows: Vec<Row>) -> Vec<Row> {
        let text = |row: &Row, column: &String| row[column].as_str().unwrap_or("").to_owned();
        rows.sort_by(|a, b| {
            let by = |column| text(a, column).cmp(&text(b, column));
            self.order.iter().map(by).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
        });
        let limit = self.limit.unwrap_or(MAX_ROWS).min(MAX_ROWS);
        rows.into_iter().skip(self.offset).take(limit).collect()
    }

    /// The selected columns; nothing unless a representation was requested.
    fn project(&self, rows: Vec<Row>, representation: bool) -> Vec<Value> {
        if !representation {
            return Vec::new();
        }
        let wanted = |column: &String| self.select.is_empty() || self.select.contains(column);
        let project = |row: Row| {
            Value::Object(row.into_iter().filter(|(column, _)| wanted(column)).collect())
        };
        rows.into_iter().map(project).collect()
    }
}

fn ascending(text: &str) -> Result<Vec<String>, Refusal> {
    let column = |part: &str| match part.split_once('.') {
        Some((column, "asc")) => Ok(column.to_owned()),
        _ => refuse(400, "PGRST100", format!("order={part}")),
    };
    text.split(',').map(column).collect()
}

/// `eq.value`, `neq.value`, `in.("a","b")`.
fn condition(column: &str, text: &str) -> Result<Condition, Refusal> {
    let Some((operator, value)) = text.split_once('.') else {
        return refuse(400, "PGRST100", format!("failed to parse filter ({text})"));
    };
    let values = match operator {
        "eq" | "neq" => vec![value.to_owned()],
        "in" => listed(value)?,
        _ => return refuse(400, "PGRST100", format!("unknown operator {operator}")),
    };
    if ["id", "user_id"].contains(&column)
        && let Some(wrong) = values.iter().find(|value| uuid::Uuid::parse_str(value).is_err())
    {
        return refuse(400, "22P02", format!("invalid input syntax for type uuid: {wrong}"));
    }
    Ok(Condition { column: column.to_owned(), negated: operator == "neq", values })
}

/// `(a.eq."x",b.eq."y")`.
fn either(text: &str) -> Result<Vec<Condition>, Refusal> {
    let parts = split(text)?;
    let one = |(prefix, value): (String, Option<String>)| match prefix
        .splitn(3, '.')
        .collect::<Vec<_>>()[..]
    {
        [column, operator, rest] => {
            let value = value.unwrap_or_else(|| rest.to_owned());
            condition(column, &format!("{operator}.{value}"))
        }
        _ => refuse(400, "PGRST100", format!("failed to parse logic tree ({prefix})")),
    };
    parts.into_iter().map(one).collect()
}

/// `("a","b")`, with or without quotes.
fn listed(text: &str) -> Result<Vec<String>, Refusal> {
    let parts = split(text)?;
    Ok(parts.into_iter().map(|(plain, quoted)| quoted.unwrap_or(plain)).collect())
}

/// The parts of `(…,…)`: the text before the quotes, and the text inside them, if any.
fn split(text: &str) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let wrong = || (400, "PGRST100", format!("failed to parse ({text})"));
    let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or_else(wrong)?;
    let mut parts = vec![(String::new(), None)];
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        let (plain, quoted) = parts.last_mut().expect("there is one");
        match character {
            ',' => parts.push((String::new(), None)),
            '"' if quoted.is_none() => {
                let mut value = String::new();
                loop {
                    match characters.next().ok_or_else(wrong)? {
                        '"' => break,
                        '\\' => value.push(characters.next().ok_or_else(wrong)?),
                        other => value.push(other),
                    }
                }
                *quoted = Some(value);
            }
            '"' | '(' | ')' => return Err(wrong()),
            // Quotes must be followed by a comma or the end.
            _ if quoted.is_some() => return Err(wrong()),
            other => plain.push(other),
        }
    }
    Ok(parts)
}
