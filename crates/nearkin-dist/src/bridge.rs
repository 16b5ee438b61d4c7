//! The C++ side, as cxx sees it; `bridge.hpp` says what each function does.

#[allow(unreachable_pub, reason = "cxx makes everything public, and this module is private")]
#[cxx::bridge(namespace = "nearkin")]
pub(crate) mod ffi {
    unsafe extern "C++" {
        include!("nearkin-dist/src/bridge/bridge.hpp");

        #[namespace = "at"]
        type Tensor;

        type Store;
        fn open_store(
            host: &str,
            port: u16,
            listener: i32,
            prefix: &str,
            timeout_milliseconds: u64,
        ) -> Result<UniquePtr<Store>>;
        fn set(self: &Store, key: &str, value: &[u8]) -> Result<()>;
        fn get(self: &Store, key: &str, timeout_milliseconds: u64) -> Result<Vec<u8>>;
        fn has(self: &Store, key: &str) -> Result<bool>;
        fn another(self: &Store) -> Result<UniquePtr<Store>>;

        type Group;
        fn gloo(
            store: &Store,
            rank: i32,
            size: i32,
            address: &str,
            interface: &str,
            timeout_milliseconds: u64,
        ) -> Result<UniquePtr<Group>>;
        fn has_nccl() -> bool;
        fn nccl(
            store: &Store,
            rank: i32,
            size: i32,
            device: i32,
            timeout_milliseconds: u64,
        ) -> Result<UniquePtr<Group>>;
        fn maximum(self: &Group, number: i64) -> Result<i64>;
        unsafe fn sum(self: &Group, tensor: *const Tensor) -> Result<()>;
        unsafe fn broadcast(self: &Group, tensor: *const Tensor) -> Result<()>;
        unsafe fn gather(self: &Group, rows: *const Tensor) -> Result<*mut Tensor>;
        unsafe fn differentiable_sum(self: &Group, tensor: *const Tensor) -> Result<*mut Tensor>;
        unsafe fn differentiable_gather(self: &Group, rows: *const Tensor) -> Result<*mut Tensor>;

        type Reducer;
        fn new_reducer(
            group: &Group,
            parameters: &[usize],
            bucket_ends: &[usize],
            bucket_bytes: usize,
        ) -> Result<UniquePtr<Reducer>>;
        fn expect_backward(self: &Reducer) -> Result<()>;
    }
}

// SAFETY: the store locks its connection in every call.
unsafe impl Send for ffi::Store {}
// SAFETY: as above.
unsafe impl Sync for ffi::Store {}
// SAFETY: c10d's groups may be used from any thread (autograd's are others than the caller's), as long
// as every process calls the same operations in the same order, which is the caller's contract.
unsafe impl Send for ffi::Group {}
// SAFETY: as above.
unsafe impl Sync for ffi::Group {}
// SAFETY: autograd's threads use the reducer as well; it locks.
unsafe impl Send for ffi::Reducer {}
