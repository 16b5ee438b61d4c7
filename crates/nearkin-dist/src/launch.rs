//! What a launcher tells a process of its place among the others.
//!
//! The contract is torchrun's environment variables. Slurm's `srun` and Open MPI's `mpirun` set
//! variables of their own, which are read where torchrun's are missing, so that all three start a
//! program as it is.

use std::time::Duration;

use crate::DistError;

/// The default of [`Launch::port`] as in torch.
const PORT: u16 = 29500;

/// A process's place among those that were started together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// This process's number, from 0.
    pub rank: usize,
    /// How many processes there are.
    pub size: usize,
    /// Its number on this host, which is the number of its GPU.
    pub local_rank: usize,
    /// How many processes this host has, if the launcher says it.
    pub local_size: Option<usize>,
    /// The host of process 0. Its store listens on this address only, so a loopback address keeps it
    /// within one host.
    pub address: String,
    /// The port of the store there.
    pub port: u16,
    /// The launcher serves the store (torchrun does), not process 0.
    pub served_by_launcher: bool,
    /// Which attempt of the launcher this is: its processes must not read what earlier ones wrote.
    pub attempt: String,
    /// How long to wait for others, at the start and in every collective operation.
    pub timeout: Duration,
}

/// The names that one launcher gives to rank, number of processes and rank on the host.
struct Names {
    rank: &'static str,
    size: &'static str,
    local_rank: &'static str,
    local_size: &'static str,
}

const TORCHRUN: Names = Names {
    rank: "RANK",
    size: "WORLD_SIZE",
    local_rank: "LOCAL_RANK",
    local_size: "LOCAL_WORLD_SIZE",
};
const SLURM: Names = Names {
    rank: "SLURM_PROCID",
    size: "SLURM_NTASKS",
    local_rank: "SLURM_LOCALID",
    local_size: "SLURM_NTASKS_PER_NODE",
};
const OPEN_MPI: Names = Names {
    rank: "OMPI_COMM_WORLD_RANK",
    size: "OMPI_COMM_WORLD_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
    local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
};

impl Launch {
    /// From this process's environment; none if no launcher started it, or it was started alone.
    ///
    /// Fails if variables contradict each other or are not numbers.
    pub fn from_environment(timeout: Duration) -> Result<Option<Self>, DistError> {
        Self::read(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()), timeout)
    }

    fn read(
        variable: &dyn Fn(&str) -> Option<String>,
        timeout: Duration,
    ) -> Result<Option<Self>, DistError> {
        let set = |name: &str| variable(name).is_some();
        // Inside a batch script, Slurm sets its variables also where no srun started the program.
        let in_step = set("SLURM_STEP_ID") || set("SLURM_STEPID");
        let names = if set(TORCHRUN.rank) || set(TORCHRUN.size) {
            TORCHRUN
        } else if set(SLURM.rank) && in_step {
            SLURM
        } else if set(OPEN_MPI.rank) {
            OPEN_MPI
        } else {
            return Ok(None);
        };
        let rank: usize = required(variable, names.rank)?;
        let size: usize = required(variable, names.size)?;
        if rank >= size {
            return Err(DistError::Variable {
                name: names.rank,
                value: rank.to_string(),
                reason: format!("it must be below {} = {size}", names.size),
            });
        }
        if size == 1 {
            return Ok(None);
        }
        // Who starts one process in a container or on a host, as Kubernetes does, does not count it.
        let local_rank = number(variable, names.local_rank)?.unwrap_or(0);
        let local_size = number(variable, names.local_size)?;
        let address = match variable("MASTER_ADDR") {
            Some(address) => address,
            None => default_address(variable, &names, size)?,
        };
        let attempt = ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"]
            .into_iter()
            .find_map(variable)
            .unwrap_or_else(|| "0".to_owned());
        Ok(Some(Self {
            rank,
            size,
            local_rank,
            local_size,
            address,
            port: number(variable, "MASTER_PORT")?.unwrap_or_else(|| default_port(variable)),
            served_by_launcher: variable("TORCHELASTIC_USE_AGENT_STORE")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            attempt,
            timeout,
        }))
    }
}

/// Where process 0 is when MASTER_ADDR does not say it.
fn default_address(
    variable: &dyn Fn(&str) -> Option<String>,
    names: &Names,
    size: usize,
) -> Result<String, DistError> {
    let one_host = variable("OMPI_COMM_WORLD_LOCAL_SIZE").and_then(|value| value.parse().ok())
        == Some(size)
        || variable("SLURM_JOB_NUM_NODES").as_deref() == Some("1");
    if one_host {
        return Ok("127.0.0.1".to_owned());
    }
    let nodes = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST"));
    if names.rank == SLURM.rank
        && let Some(host) = nodes.as_deref().and_then(first_host)
    {
        return Ok(host);
    }
    Err(DistError::Variable {
        name: "MASTER_ADDR",
        value: String::new(),
        reason: "it is not set; give the host of process 0".into(),
    })
}

/// Jobs of Slurm and Open MPI on one host get ports of their own.
fn default_port(variable: &dyn Fn(&str) -> Option<String>) -> u16 {
    let job = ["SLURM_JOB_ID", "PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"]
        .into_iter()
        .find_map(variable);
    job.map_or(PORT, |job| {
        let sum =
            job.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        20_000 + (sum % 10_000) as u16
    })
}

/// The first name of a Slurm node list such as `gpu[03-05,9],login`.
fn first_host(nodes: &str) -> Option<String> {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (name, rest) = nodes.split_at(end);
    let Some(ranges) = rest.strip_prefix('[') else { return Some(name.to_owned()) };
    let (ranges, suffix) = ranges.split_once(']')?;
    let first = ranges.split(['-', ',']).next()?;
    let suffix = suffix.split(',').next().unwrap_or_default();
    Some(format!("{name}{first}{suffix}"))
}

fn required<T: std::str::FromStr<Err: std::fmt::Display>>(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<T, DistError> {
    number(variable, name)?.ok_or_else(|| DistError::Variable {
        name,
        value: String::new(),
        reason: "it is not set, but others of the launcher are".into(),
    })
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &'static str,
) -> Result<Option<T>, DistError> {
    let Some(value) = variable(name) else { return Ok(None) };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(error) => Err(DistError::Variable { name, reason: format!("{error}"), value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Option<Launch>, DistError> {
        let find = |name: &str| {
            variables.iter().find(|entry| entry.0 == name).map(|entry| entry.1.to_owned())
        };
        Launch::read(&find, Duration::from_secs(5))
    }

    fn place(launch: Launch) -> (usize, usize, usize, String, u16) {
        (launch.rank, launch.size, launch.local_rank, launch.address, launch.port)
    }

    #[test]
    fn torchruns_variables_come_first() {
        let launch = read(&[
            ("RANK", "3"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "gpu-1"),
            ("MASTER_PORT", "1234"),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
            ("TORCHELASTIC_RESTART_COUNT", "2"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "2"),
            ("SLURM_STEP_ID", "0"),
        ])
        .unwrap()
        .unwrap();
        assert!(launch.served_by_launcher);
        assert_eq!(launch.attempt, "2");
        assert_eq!(place(launch), (3, 8, 1, "gpu-1".to_owned(), 1234));
    }

    #[test]
    fn srun_and_mpirun_are_understood() {
        let slurm = [
            ("SLURM_PROCID", "5"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_STEP_ID", "0"),
            ("SLURM_JOB_ID", "4711"),
            ("SLURM_STEP_NODELIST", "gpu[03-05,9],login"),
        ];
        let (rank, size, local_rank, address, port) = place(read(&slurm).unwrap().unwrap());
        assert_eq!((rank, size, local_rank, address.as_str()), (5, 16, 1, "gpu03"));
        assert!((20_000..30_000).contains(&port));
        let mut other_job = slurm;
        other_job[4].1 = "4712";
        assert_ne!(read(&other_job).unwrap().unwrap().port, port);
        // The same variables in a batch script, where nothing was started with srun.
        let script: Vec<_> = slurm.into_iter().filter(|entry| entry.0 != "SLURM_STEP_ID").collect();
        assert_eq!(read(&script).unwrap(), None);

        let mpi = [
            ("OMPI_COMM_WORLD_RANK", "1"),
            ("OMPI_COMM_WORLD_SIZE", "2"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
        ];
        let (rank, size, local_rank, address, _) = place(read(&mpi).unwrap().unwrap());
        assert_eq!((rank, size, local_rank, address.as_str()), (1, 2, 1, "127.0.0.1"));
        let two_hosts = read(&mpi[..3]).unwrap_err().to_string();
        assert!(two_hosts.contains("MASTER_ADDR"), "{two_hosts}");
    }

    /// As Kubernetes' training operator starts a process in each pod.
    #[test]
    fn a_process_that_is_alone_on_its_host_takes_its_first_device() {
        let pod = [("RANK", "5"), ("WORLD_SIZE", "8"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "1")];
        assert_eq!(read(&pod).unwrap().unwrap().local_rank, 0);
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (nodes, first) in [
            ("alone", "alone"),
            ("a,b", "a"),
            ("n[1-4]", "n1"),
            ("n[07,09]", "n07"),
            ("rack1-n[2-3]-ib,x", "rack1-n2-ib"),
        ] {
            assert_eq!(first_host(nodes).as_deref(), Some(first));
        }
        assert_eq!(first_host("n[1-"), None);
    }

    #[test]
    fn a_single_process_is_alone_and_nonsense_is_refused() {
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[("RANK", "0"), ("WORLD_SIZE", "1")]).unwrap(), None);
        for (variables, named) in [
            (&[("RANK", "0")][..], "WORLD_SIZE"),
            (&[("WORLD_SIZE", "2")], "RANK"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "a")], "RANK"),
            (&[("RANK", "one"), ("WORLD_SIZE", "2")], "RANK = \"one\""),
            (&[("RANK", "1"), ("WORLD_SIZE", "2")], "MASTER_ADDR"),
            (
                &[
                    ("RANK", "1"),
                    ("WORLD_SIZE", "2"),
                    ("MASTER_ADDR", "a"),
                    ("MASTER_PORT", "70000"),
                ],
                "MASTER_PORT",
            ),
        ] {
            let error = read(variables).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
