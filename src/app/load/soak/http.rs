//! HTTP/1.1 by hand: a client that is to vanish halfway, or to read a few bytes at a time, must hold the wire itself.

use super::asks::Ask;
use crate::error::{Error, Kind, Result};
use serde_json::Value;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Plain,
    /// Goes away after it has asked.
    Vanishes,
    /// Goes away in the middle of asking.
    VanishesHalfway,
    /// Wants the answer at once.
    Hurries,
    /// Reads a few bytes at a time.
    ReadsSlowly,
    /// Sends its body in pieces.
    WritesSlowly,
}

/// The deadline of those who are in a hurry, in seconds.
const HURRY: &str = "0.05";
/// How long a server may keep one waiting altogether.
const PATIENCE: Duration = Duration::from_secs(400);

/// An answer.
pub struct Reply {
    pub status: u16,
    pub retry_after: Option<u64>,
    /// Without what differs between equal requests.
    pub text: String,
}

/// A connection, and what was read from it beyond the last answer.
pub struct Connection {
    stream: TcpStream,
    rest: Vec<u8>,
    open: bool,
}

fn broke(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::Io, format!("the connection broke: {e}"))
}

impl Connection {
    /// # Errors
    /// Nobody listens there.
    pub async fn open(addr: &str) -> Result<Connection> {
        let stream = TcpStream::connect(addr).await;
        let stream = stream.map_err(|e| Error::new(Kind::Io, format!("cannot reach {addr}: {e}")))?;
        let _ = stream.set_nodelay(true);
        Ok(Connection { stream, rest: Vec::new(), open: true })
    }

    /// Whether the server lets it be used again.
    pub fn reusable(&self) -> bool {
        self.open
    }

    /// Asks in this manner; no reply to those who go away. `sent` is called when the request is on its way.
    ///
    /// # Errors
    /// The server broke the connection, or keeps one waiting for ever.
    pub async fn ask(&mut self, ask: &Ask, manner: Manner, sent: &mut (dyn FnMut() + Send)) -> Result<Option<Reply>> {
        let hurry = if manner == Manner::Hurries { format!("x-request-timeout: {HURRY}\r\n") } else { String::new() };
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\n{hurry}content-length: {}\r\n\r\n",
            ask.route,
            ask.body.len()
        );
        let whole = [head.as_bytes(), &ask.body].concat();
        match manner {
            Manner::VanishesHalfway => {
                self.write(&whole[..whole.len() - ask.body.len() / 2]).await?;
                self.open = false;
                return Ok(None);
            }
            Manner::WritesSlowly => {
                for piece in whole.chunks(whole.len() / 3 + 1) {
                    self.write(piece).await?;
                    tokio::time::sleep(Duration::from_millis(40)).await;
                }
            }
            _ => self.write(&whole).await?,
        }
        sent();
        if manner == Manner::Vanishes {
            // Long enough to be taken up, often too short to be answered.
            tokio::time::sleep(Duration::from_millis(15)).await;
            self.open = false;
            return Ok(None);
        }
        let read = self.read(ask.streams, manner == Manner::ReadsSlowly);
        let reply = tokio::time::timeout(PATIENCE, read).await;
        reply.map_err(|_| Error::new(Kind::Io, format!("no answer within {} s", PATIENCE.as_secs())))?.map(Some)
    }

    async fn write(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(broke)?;
            match self.stream.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(broke(e)),
            }
        }
        Ok(())
    }

    async fn more(&mut self, slowly: bool) -> Result<()> {
        let mut bytes = [0; 4096];
        let room = if slowly { 48 } else { bytes.len() };
        if slowly {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        loop {
            self.stream.readable().await.map_err(broke)?;
            match self.stream.try_read(&mut bytes[..room]) {
                Ok(0) => return Err(broke("it was closed before the answer was whole")),
                Ok(n) => {
                    self.rest.extend_from_slice(&bytes[..n]);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(broke(e)),
            }
        }
    }

    async fn line(&mut self, slowly: bool) -> Result<String> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|w| w == b"\r\n") {
                let line = self.rest.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(broke);
            }
            self.more(slowly).await?;
        }
    }

    async fn exactly(&mut self, n: usize, slowly: bool) -> Result<Vec<u8>> {
        while self.rest.len() < n {
            self.more(slowly).await?;
        }
        Ok(self.rest.drain(..n).collect())
    }

    async fn read(&mut self, streams: bool, slowly: bool) -> Result<Reply> {
        let first = self.line(slowly).await?;
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.ok_or_else(|| broke(format!("{first:?} is no answer")))?;
        let (mut length, mut retry_after) = (None, None);
        loop {
            let line = self.line(slowly).await?;
            let Some((name, value)) = line.split_once(':') else { break };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => length = value.parse::<usize>().ok(),
                ("retry-after", value) => retry_after = value.parse().ok(),
                ("connection", "close") => self.open = false,
                _ => {}
            }
        }
        let body = match length {
            Some(n) => self.exactly(n, slowly).await?,
            None => self.chunks(slowly).await?,
        };
        let text = String::from_utf8(body).map_err(broke)?;
        let (status, text) = if streams && status == 200 { joined(&text)? } else { (status, plain(&text)) };
        Ok(Reply { status, retry_after, text })
    }

    /// A body in chunks.
    async fn chunks(&mut self, slowly: bool) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line(slowly).await?;
            let size = usize::from_str_radix(line.trim(), 16).map_err(|_| broke(format!("{line:?} is no size")))?;
            let chunk = self.exactly(size + 2, slowly).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
}

/// An answer without its id.
fn plain(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(mut map)) => {
            map.shift_remove("id");
            Value::from(map).to_string()
        }
        _ => text.to_string(),
    }
}

/// What the events of a stream say together, and the status that says so too.
fn joined(text: &str) -> Result<(u16, String)> {
    let (mut said, mut end) = (String::new(), None);
    for event in text.split("\n\n").filter(|e| !e.is_empty()) {
        let data = event.strip_prefix("data: ").ok_or_else(|| broke(format!("{event:?} is no event")))?;
        if data == "[DONE]" {
            return Ok((200, format!("{said} ({})", end.unwrap_or_default())));
        }
        let chunk: Value = serde_json::from_str(data).map_err(broke)?;
        match chunk["error"]["code"].as_str() {
            None => {}
            // Its head was sent long before.
            Some("deadline") => return Ok((504, data.to_string())),
            Some(_) => return Err(broke(data)),
        }
        let choice = &chunk["choices"][0];
        said.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        end = choice["finish_reason"].as_str().map(String::from).or(end);
    }
    Err(broke("the stream ended before it was done"))
}

/// The text of a route.
///
/// # Errors
/// The server is not there.
pub async fn get(addr: &str, route: &str) -> Result<String> {
    let mut connection = Connection::open(addr).await?;
    let head = format!("GET {route} HTTP/1.1\r\nhost: soak\r\n\r\n");
    connection.write(head.as_bytes()).await?;
    Ok(connection.read(false, false).await?.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_joined_and_must_be_whole() {
        let chunk = |text: &str| {
            format!(
                "data: {{\"choices\": [{{\"delta\": {{\"content\": \"{text}\"}}, \"finish_reason\": \"stop\"}}]}}\n\n"
            )
        };
        let whole = format!("{}{}data: [DONE]\n\n", chunk("a"), chunk("b"));
        assert_eq!(joined(&whole).unwrap(), (200, "ab (stop)".into()));
        assert!(joined(&chunk("a")).is_err());
        assert_eq!(joined("data: {\"error\": {\"code\": \"deadline\"}}\n\n").unwrap().0, 504);
        assert!(joined("data: {\"error\": {\"code\": \"model_failed\"}}\n\n").is_err());
        assert_eq!(plain("{\"id\": \"x\", \"p\": 0.5}"), "{\"p\":0.5}");
    }
}
