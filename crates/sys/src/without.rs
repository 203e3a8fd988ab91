//! Programs that are to do without a system call, because they misuse it.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Load a word of `struct seccomp_data`.
const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn step(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

/// The call's number is the first word of what a filter sees. The number means
/// something else to programs for other architectures, which `command` is none
/// of.
const FILTER: [libc::sock_filter; 4] = [
    step(LOAD, 0),
    libc::sock_filter { jf: 1, ..step(JUMP_IF_EQUAL, libc::SYS_copy_file_range as u32) },
    step(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    step(RETURN, libc::SECCOMP_RET_ALLOW),
];

/// Has `command` believe that this kernel knows no `copy_file_range`: there are
/// programs that copy by reading and writing then, and give up where the two
/// files are merely on different filesystems. Also what it starts believes so.
/// A kernel without seccomp starts it as it is.
pub fn without_copy_file_range(command: &mut Command) {
    // SAFETY: runs between fork and exec, and does nothing there but two system
    // calls on constants: it allocates and locks nothing.
    unsafe {
        command.pre_exec(refuse);
    }
}

fn refuse() -> io::Result<()> {
    let mut filter = FILTER;
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: `program` and the filter that it points to live until the calls
    // have returned; the kernel copies both.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_alone_is_refused() {
        // Prints the state of filters: 2 is one of its own.
        let mut command = Command::new("grep");
        command.args(["^Seccomp:", "/proc/self/status"]);
        without_copy_file_range(&mut command);
        let output = command.output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "Seccomp:\t2\n");
    }
}
