//! Processes joined by c10d: Gloo between CPUs, NCCL between GPUs.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cxx::UniquePtr;
use tch::{Device, TchError, Tensor};

use crate::bridge::ffi;
use crate::watch::{LOOK, Watch, said};
use crate::{DistError, Launch, Reducer, World};

/// The last parameters' gradients are there first: a small bucket lets their exchange begin early.
const FIRST_BUCKET_BYTES: usize = 1 << 20;
/// As torch's DDP.
const BUCKET_BYTES: usize = 25 << 20;

/// How long the name of process 0's host is looked up: where hosts start together, a name server may not
/// know it yet.
const LOOK_UP: Duration = Duration::from_secs(10);

/// So long process 0 waits for the others at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// The same after a failure, when some will not come back.
const FAREWELL_AFTER_FAILURE: Duration = Duration::from_secs(2);

/// The world of the processes that one launcher started.
pub struct Processes {
    launch: Launch,
    store: UniquePtr<ffi::Store>,
    group: Arc<UniquePtr<ffi::Group>>,
    /// Between hosts' memories; the same as `group` where that is Gloo.
    host: Arc<UniquePtr<ffi::Group>>,
    /// Collective operations on this device's tensors go through the host's memory.
    staged: bool,
    /// Messages shared so far, which gives each a place of its own in the store.
    shared: AtomicU64,
    watch: Watch,
}

impl Processes {
    /// Meets the other processes; every one of them must do so. `device` is where this process's
    /// tensors live: with a GPU, and a libtorch that has NCCL at build time, NCCL is used, else Gloo.
    ///
    /// Process 0 serves the others where its host has the launch's address, and nowhere else: see
    /// [`Launch::address`].
    ///
    /// Fails if process 0 cannot be reached, or others do not come, within the launch's timeout.
    pub fn join(launch: Launch, device: Device) -> Result<Self, DistError> {
        let serve = launch.rank == 0 && !launch.served_by_launcher;
        let milliseconds = launch.timeout.as_millis() as u64;
        // torchrun gives every attempt a store of its own, and its hosts count attempts apart.
        let prefix = if launch.served_by_launcher {
            "nearkin".to_owned()
        } else {
            format!("nearkin/{}", launch.attempt)
        };
        let addresses = resolve(&launch)?;
        let listener = if serve { listen(&launch, &addresses)?.into_raw_fd() } else { -1 };
        let store = ffi::open_store(&launch.address, launch.port, listener, &prefix, milliseconds)
            .map_err(|error| DistError::Unreachable {
                rank: launch.rank,
                size: launch.size,
                address: launch.address.clone(),
                port: launch.port,
                timeout: launch.timeout,
                reason: first_line(error.what()),
            })?;
        if Watch::knows(launch.rank, &store)? {
            return Err(DistError::Again { rank: launch.rank, size: launch.size });
        }
        let watch = Watch::start(launch.rank, launch.size, &store)?;
        let (rank, size) = (launch.rank as i32, launch.size as i32);
        let address = own_address(&launch, &store)?;
        let nccl = matches!(device, Device::Cuda(_)) && ffi::has_nccl();
        let interface = std::env::var("GLOO_SOCKET_IFNAME").unwrap_or_default();
        let host = ffi::gloo(&store, rank, size, &address.to_string(), &interface, milliseconds)?;
        let host = Arc::new(host);
        let group = match device {
            Device::Cuda(number) if nccl => {
                Arc::new(ffi::nccl(&store, rank, size, number as i32, milliseconds)?)
            }
            _ => Arc::clone(&host),
        };
        let staged = device != Device::Cpu && !nccl;
        Ok(Self { launch, store, group, host, staged, shared: AtomicU64::new(0), watch })
    }

    /// Owns what a function of the bridge returned.
    fn returned(result: Result<*mut ffi::Tensor, cxx::Exception>) -> Result<Tensor, TchError> {
        let pointer = result.map_err(|error| failure(&error))?;
        // SAFETY: the bridge gives a new tensor, of which nobody else has the pointer.
        Ok(unsafe { Tensor::from_ptr(pointer.cast()) })
    }
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Processes").field("launch", &self.launch).finish_non_exhaustive()
    }
}

impl Drop for Processes {
    /// The store ends with process 0, which therefore leaves last.
    fn drop(&mut self) {
        let gone = |rank: usize| format!("gone/{rank}");
        let Launch { rank, size, .. } = self.launch;
        if rank > 0 {
            // Who cannot say it is waited for a while.
            let _ = self.store.set(&gone(rank), b"");
            return;
        }
        let begun = Instant::now();
        let here = |rank: usize| self.store.has(&gone(rank)).is_ok_and(|gone| !gone);
        let patience = match said(&self.store) {
            Ok(None) => FAREWELL,
            _ => FAREWELL_AFTER_FAILURE,
        };
        while (1..size).any(here) && begun.elapsed() < patience {
            thread::sleep(LOOK);
        }
    }
}

/// Messages of all processes under one name, which process 0 puts together.
fn share(
    launch: &Launch,
    store: &ffi::Store,
    name: &str,
    message: &[u8],
) -> Result<Vec<Vec<u8>>, DistError> {
    let (all, size) = (format!("{name}/all"), launch.size);
    let begun = Instant::now();
    // Waits for a key, or for the news that its process failed.
    let wait = |key: &str| -> Result<Option<Vec<u8>>, DistError> {
        loop {
            if store.has(key)? {
                return Ok(Some(store.get(key, launch.timeout.as_millis() as u64)?));
            }
            if let Some(message) = said(store)? {
                return Err(DistError::Elsewhere { message });
            }
            if begun.elapsed() > launch.timeout {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
    };
    let late =
        |missing| DistError::Late { what: name.to_owned(), missing, size, waited: begun.elapsed() };
    if launch.rank > 0 {
        store.set(&format!("{name}/{}", launch.rank), message)?;
        let joined = wait(&all)?.ok_or_else(|| late(vec![0]))?;
        return Ok(split(&joined));
    }
    let mut messages = vec![message.to_vec()];
    let mut missing = Vec::new();
    for rank in 1..size {
        match wait(&format!("{name}/{rank}"))? {
            Some(message) => messages.push(message),
            None => missing.push(rank),
        }
    }
    if !missing.is_empty() {
        return Err(late(missing));
    }
    store.set(&all, &join(&messages))?;
    Ok(messages)
}

/// Messages with their lengths before them.
fn join(messages: &[Vec<u8>]) -> Vec<u8> {
    let with_length =
        |message: &Vec<u8>| [&(message.len() as u64).to_le_bytes()[..], message].concat();
    messages.iter().flat_map(with_length).collect()
}

fn split(mut joined: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = joined.split_first_chunk::<8>() {
        let (message, rest) = rest.split_at(rest.len().min(u64::from_le_bytes(*length) as usize));
        messages.push(message.to_vec());
        joined = rest;
    }
    messages
}

/// The address under which the others reach this process: that of the interface towards process 0.
/// A host that calls itself by a loopback address, as Debian's do, takes that towards another.
fn own_address(launch: &Launch, store: &ffi::Store) -> Result<IpAddr, DistError> {
    let mine = towards(&launch.address, launch.port)?;
    let said = share(launch, store, "addresses", mine.to_string().as_bytes())?;
    let mut others = said.iter().filter_map(|text| std::str::from_utf8(text).ok()?.parse().ok());
    match others.find(|address: &IpAddr| !address.is_loopback()) {
        Some(other) if mine.is_loopback() => towards(&other.to_string(), launch.port),
        _ => Ok(mine),
    }
}

/// The addresses of process 0's host.
fn resolve(launch: &Launch) -> Result<Vec<SocketAddr>, DistError> {
    let begun = Instant::now();
    loop {
        let reason = match (launch.address.as_str(), launch.port).to_socket_addrs() {
            Ok(addresses) if addresses.len() > 0 => return Ok(addresses.collect()),
            Ok(_) => "it has no address".to_owned(),
            Err(error) => error.to_string(),
        };
        if begun.elapsed() > LOOK_UP.min(launch.timeout) {
            return Err(DistError::Resolve { address: launch.address.clone(), reason });
        }
        thread::sleep(10 * LOOK);
    }
}

/// The socket on which process 0 serves the others.
///
/// The store asks nobody who they are, so it should be in reach of the job's hosts only: it listens where
/// this host has the launch's address. Some hosts know themselves by other addresses than the rest of the
/// job does: Debian's take a loopback address for their own name, and others are behind a translation.
/// There the store listens everywhere, or the others would not reach it.
fn listen(launch: &Launch, addresses: &[SocketAddr]) -> Result<TcpListener, DistError> {
    let means_loopback = launch.address.eq_ignore_ascii_case("localhost")
        || launch.address.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    let mine = addresses.iter().map(SocketAddr::ip);
    let mine = mine.filter(|address| means_loopback || !address.is_loopback());
    let anywhere = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let port = launch.port;
    let mut refused = None;
    for address in mine.chain(anywhere) {
        match TcpListener::bind((address, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                let of_port =
                    matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::PermissionDenied);
                let reason = error.to_string();
                refused = Some(DistError::Serve { address, port, reason });
                // Otherwise the address is another host's, or of a family that this one does not have.
                if of_port {
                    break;
                }
            }
        }
    }
    Err(refused.unwrap_or_else(|| DistError::Engine("no address to listen on".to_owned())))
}

fn towards(host: &str, port: u16) -> Result<IpAddr, DistError> {
    let route = || {
        let there = (host, port).to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
        let any: SocketAddr = match there {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        // Nothing is sent: the system only chooses the interface.
        let socket = UdpSocket::bind(any)?;
        socket.connect(there)?;
        Ok(socket.local_addr()?.ip())
    };
    route().map_err(|error: std::io::Error| {
        DistError::Engine(format!("this host finds no way to {host}: {error}"))
    })
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn failure(error: &cxx::Exception) -> TchError {
    TchError::Torch(format!("between processes: {}", first_line(error.what())))
}

fn pointer(tensor: &Tensor) -> *const ffi::Tensor {
    tensor.as_ptr().cast()
}

impl World for Processes {
    fn rank(&self) -> usize {
        self.launch.rank
    }

    fn size(&self) -> usize {
        self.launch.size
    }

    fn sum(&self, tensor: &mut Tensor) -> Result<(), TchError> {
        // SAFETY: the pointer is that of a live tensor.
        unsafe { self.group.sum(pointer(tensor)) }.map_err(|error| failure(&error))
    }

    fn differentiable_sum(&self, tensor: &Tensor) -> Result<Tensor, TchError> {
        // SAFETY: as above.
        Self::returned(unsafe { self.group.differentiable_sum(pointer(tensor)) })
    }

    fn gather(&self, rows: &Tensor) -> Result<Tensor, TchError> {
        let gather = if rows.requires_grad() {
            ffi::Group::differentiable_gather
        } else {
            ffi::Group::gather
        };
        // SAFETY: as above.
        Self::returned(unsafe { gather(&self.group, pointer(rows)) })
    }

    fn broadcast(&self, tensor: &mut Tensor) -> Result<(), TchError> {
        // SAFETY: as above.
        unsafe { self.group.broadcast(pointer(tensor)) }.map_err(|error| failure(&error))
    }

    fn maximum(&self, number: i64) -> Result<i64, TchError> {
        self.host.maximum(number).map_err(|error| failure(&error))
    }

    fn share(&self, name: &str, message: &[u8]) -> Result<Vec<Vec<u8>>, DistError> {
        let number = self.shared.fetch_add(1, Ordering::Relaxed);
        share(&self.launch, &self.store, &format!("{name}/{number}"), message)
    }

    fn reducer(&self, parameters: &[Tensor]) -> Result<Box<dyn Reducer>, TchError> {
        if self.staged || parameters.is_empty() {
            let parameters = parameters.iter().map(Tensor::shallow_clone).collect();
            let group = Arc::clone(&self.group);
            return Ok(Box::new(Staged { group, parameters, size: self.launch.size }));
        }
        let sizes: Vec<usize> = parameters.iter().rev().map(bytes).collect();
        let pointers: Vec<usize> =
            parameters.iter().map(|tensor| tensor.as_ptr() as usize).collect();
        let ends = bucket_ends(&sizes);
        let reducer = ffi::new_reducer(&self.group, &pointers, &ends, BUCKET_BYTES)
            .map_err(|error| failure(&error))?;
        let parameters = parameters.iter().map(Tensor::shallow_clone).collect();
        Ok(Box::new(Buckets { reducer, parameters }))
    }

    fn report(&self, at: &str) {
        self.watch.report(at);
    }

    fn ask_to_stop(&self, signal: i32) {
        self.watch.ask_to_stop(signal);
    }

    fn asked_to_stop(&self) -> Option<i32> {
        self.watch.asked_to_stop()
    }

    fn fail(&self, error: &str) {
        self.watch.fail(error);
    }

    fn explain(&self, error: &str) -> Option<String> {
        self.watch.explain(error)
    }
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Where buckets of gradients of these sizes end.
fn bucket_ends(sizes: &[usize]) -> Vec<usize> {
    let mut ends = Vec::new();
    let (mut filled, mut limit) = (0, FIRST_BUCKET_BYTES);
    for (index, size) in sizes.iter().enumerate() {
        filled += size;
        if filled >= limit {
            ends.push(index + 1);
            (filled, limit) = (0, BUCKET_BYTES);
        }
    }
    if ends.last() != Some(&sizes.len()) {
        ends.push(sizes.len());
    }
    ends
}

/// DDP's reducer, which does everything inside the backward pass.
struct Buckets {
    reducer: UniquePtr<ffi::Reducer>,
    parameters: Vec<Tensor>,
}

impl Reducer for Buckets {
    fn before_backward(&self) -> Result<(), TchError> {
        self.reducer.expect_backward().map_err(|error| failure(&error))
    }

    /// A bucket with a parameter that the loss does not reach is never exchanged.
    fn after_backward(&self) -> Result<(), TchError> {
        if self.parameters.iter().all(|parameter| parameter.grad().defined()) {
            Ok(())
        } else {
            Err(TchError::Shape(
                "the loss does not reach every trained parameter, which several processes cannot \
                 train; leave out the layers that it does not use"
                    .into(),
            ))
        }
    }
}

/// For tensors that only Gloo's copies in the host's memory can exchange.
struct Staged {
    group: Arc<UniquePtr<ffi::Group>>,
    parameters: Vec<Tensor>,
    size: usize,
}

impl Reducer for Staged {
    fn before_backward(&self) -> Result<(), TchError> {
        Ok(())
    }

    fn after_backward(&self) -> Result<(), TchError> {
        for parameter in &self.parameters {
            let mut gradient = parameter.f_grad()?;
            // SAFETY: the pointer is that of a live tensor.
            unsafe { self.group.sum(pointer(&gradient)) }.map_err(|error| failure(&error))?;
            let _ = gradient.f_div_scalar_(self.size as f64)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_small_first_and_complete() {
        let mib = 1 << 20;
        assert_eq!(bucket_ends(&[10, 20, 30]), [3]);
        assert_eq!(bucket_ends(&[mib, mib, 30 * mib, 10]), [1, 3, 4]);
        assert_eq!(bucket_ends(&[mib / 2, mib, 24 * mib, mib]), [2, 4]);
    }

    #[test]
    fn joined_messages_come_apart() {
        let messages = vec![b"one".to_vec(), Vec::new(), vec![0; 300]];
        assert_eq!(split(&join(&messages)), messages);
    }

    #[test]
    fn towards_a_loopback_address_is_a_loopback_address() {
        assert!(towards("127.0.0.1", 29500).unwrap().is_loopback());
        let error = towards("no-such-host.invalid", 1).unwrap_err().to_string();
        assert!(error.contains("no-such-host.invalid"), "{error}");
    }
}
