//! A router that speaks UPnP, as a test tells it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use proxystore_tests::net::Inside;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::lab::{Lab, PUBLIC, ROUTER};

/// Where it is searched.
pub const SSDP: u16 = 1900;

/// Where it describes itself and takes requests.
pub const HTTP: u16 = 8080;

const DESCRIPTION: &str = r#"<?xml version="1.0"?>
<root xmlns="urn:schemas-upnp-org:device-1-0"><device>
<deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType>
<serviceList><service>
<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>
<SCPDURL>/actions</SCPDURL><controlURL>CONTROL</controlURL>
</service></serviceList>
</device></root>"#;

/// What a router accepts: each action with what is told to it.
const ACTIONS: [(&str, &[&str]); 2] = [
    (
        "AddPortMapping",
        &[
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration",
        ],
    ),
    ("DeletePortMapping", &["NewRemoteHost", "NewExternalPort", "NewProtocol"]),
];

/// At a machine that is, or is taken for, the router.
pub fn url(ip: &str, path: &str) -> String {
    format!("http://{ip}:{HTTP}/{path}")
}

/// How it behaves.
#[derive(Clone)]
pub struct Script {
    /// The address that answers who looks for a router.
    pub answers_from: &'static str,
    /// Where it says its description is.
    pub location: String,
    /// Where its description says that requests go.
    pub control: String,
    /// Ports that somebody else has.
    pub taken: Vec<u16>,
}

impl Default for Script {
    /// A router that knows only permanent leases.
    fn default() -> Self {
        Self {
            answers_from: ROUTER,
            location: url(ROUTER, "description"),
            control: "/control".into(),
            taken: Vec::new(),
        }
    }
}

type Seen = Arc<Mutex<Vec<String>>>;

/// The running router; dropping it ends it.
pub struct Upnp {
    seen: Seen,
    _inside: Inside,
}

impl Upnp {
    pub async fn start(lab: &Lab, script: Script) -> Result<Self> {
        let (seen, inside) = (Seen::default(), Inside::new(&lab.router)?);
        let from = script.answers_from;
        let sockets = async move {
            let asked = UdpSocket::bind((ROUTER, SSDP)).await?;
            let answers = UdpSocket::bind((from, 0)).await?;
            anyhow::Ok((asked, answers, TcpListener::bind(("0.0.0.0", HTTP)).await?))
        };
        let (asked, answers, http) = inside.run(sockets).await??;
        tokio::spawn(answer_searches(asked, answers, script.location.clone(), seen.clone()));
        tokio::spawn(serve(http, script, seen.clone()));
        Ok(Self { seen, _inside: inside })
    }

    /// What it was asked: searches, then methods and paths, or actions and the numbers that matter.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn report(seen: &Seen, what: String) {
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(what);
}

async fn answer_searches(asked: UdpSocket, answers: UdpSocket, location: String, seen: Seen) -> Result<()> {
    let mut question = [0; 1500];
    loop {
        let (len, from) = asked.recv_from(&mut question).await?;
        if question[..len].starts_with(b"M-SEARCH * HTTP/1.1\r\n") {
            report(&seen, "search".into());
            let answer = format!("HTTP/1.1 200 OK\r\nEXT:\r\nLOCATION: {location}\r\n\r\n");
            answers.send_to(answer.as_bytes(), from).await?;
        }
    }
}

async fn serve(listener: TcpListener, script: Script, seen: Seen) {
    while let Ok((socket, from)) = listener.accept().await {
        // Who goes away in the middle of a request is of no interest.
        let _ = exchange(socket, from, &script, &seen).await;
    }
}

async fn exchange(mut socket: TcpStream, from: SocketAddr, script: &Script, seen: &Seen) -> Result<()> {
    let request = read_request(&mut socket).await?;
    let line = request.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
    let (status, body, what) = match line.as_str() {
        "GET /description" => ("200 OK", DESCRIPTION.replace("CONTROL", &script.control), line),
        "GET /actions" => ("200 OK", actions(), line),
        "POST /control" => script.control(&request, from),
        _ => ("404 Not Found", String::new(), line),
    };
    report(seen, what);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    Ok(socket.write_all([head, body].concat().as_bytes()).await?)
}

async fn read_request(socket: &mut TcpStream) -> Result<String> {
    let mut request = String::new();
    loop {
        let mut bytes = [0; 4096];
        let len = socket.read(&mut bytes).await?;
        anyhow::ensure!(len > 0, "half a request");
        request.push_str(std::str::from_utf8(&bytes[..len])?);
        let Some((head, body)) = request.split_once("\r\n\r\n") else { continue };
        let head = head.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(Ok(0), str::parse)? {
            return Ok(request);
        }
    }
}

fn actions() -> String {
    let argument = |name: &&str| format!("<argument><name>{name}</name><direction>in</direction></argument>");
    let action = |(name, arguments): (&str, &[&str])| {
        let arguments: String = arguments.iter().map(argument).collect();
        format!("<action><name>{name}</name><argumentList>{arguments}</argumentList></action>")
    };
    let actions: String = ACTIONS.into_iter().map(action).collect();
    format!("<scpd><actionList>{actions}</actionList></scpd>")
}

impl Script {
    fn control(&self, request: &str, from: SocketAddr) -> (&'static str, String, String) {
        let told = |name: &str| element(request, name).unwrap_or_default();
        let (external, duration) = (told("NewExternalPort"), told("NewLeaseDuration"));
        if request.contains(":GetExternalIPAddress ") {
            let address = format!("<NewExternalIPAddress>{PUBLIC}</NewExternalIPAddress>");
            return ("200 OK", success("GetExternalIPAddress", &address), "address".into());
        }
        if request.contains(":DeletePortMapping ") {
            return ("200 OK", success("DeletePortMapping", ""), format!("delete {external}"));
        }
        let is_own = told("NewInternalClient") == from.ip().to_string() && told("NewProtocol") == "UDP";
        let seen = format!("add {external} to {} for {duration}", told("NewInternalPort"));
        let taken = self.taken.iter().any(|port| port.to_string() == external);
        match (is_own, taken, duration.as_str()) {
            (false, ..) => ("500 Internal Server Error", fault(606), seen),
            (_, true, _) => ("500 Internal Server Error", fault(718), seen),
            (.., "0") => ("200 OK", success("AddPortMapping", ""), seen),
            _ => ("500 Internal Server Error", fault(725), seen),
        }
    }
}

fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    Some(rest.split_once('<').context("no end").ok()?.0.to_owned())
}

fn success(action: &str, arguments: &str) -> String {
    envelope(&format!(
        "<u:{action}Response xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">{arguments}</u:{action}Response>"
    ))
}

fn fault(code: u16) -> String {
    envelope(&format!(
        "<s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
         <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>{code}</errorCode>\
         <errorDescription>no</errorDescription></UPnPError></detail></s:Fault>"
    ))
}

fn envelope(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body>{body}\
         </s:Body></s:Envelope>"
    )
}
