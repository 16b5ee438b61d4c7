//! Devices on the C++ side, as cxx sees it; its headers say what each function does.

#[allow(unreachable_pub, reason = "cxx makes everything public, and this module is private")]
#[cxx::bridge(namespace = "nearkin")]
pub(crate) mod ffi {
    unsafe extern "C++" {
        include!("nearkin-torch/src/bridge/device.hpp");
        include!("nearkin-torch/src/bridge/stream.hpp");

        fn allow_tf32(allowed: bool) -> Result<()>;
        fn tf32_is_allowed() -> Result<bool>;
        fn time_convolutions(timed: bool) -> Result<()>;
        fn convolutions_are_timed() -> Result<bool>;

        type Autocast;
        fn autocast_to_bfloat16(cuda: bool) -> Result<UniquePtr<Autocast>>;

        type ExactProducts;
        fn exact_products() -> Result<UniquePtr<ExactProducts>>;

        fn free_cuda_bytes(device: i32) -> Result<u64>;

        fn leave_default_stream(device: i32) -> Result<()>;
        type Moment;
        fn moment(device: i32) -> Result<UniquePtr<Moment>>;
        fn wait(self: &Moment) -> Result<()>;
        type Graph;
        fn has_graphs() -> bool;
        fn graph(device: i32) -> Result<UniquePtr<Graph>>;
        fn begin(self: &Graph) -> Result<()>;
        fn end(self: &Graph) -> Result<()>;
        fn replay(self: &Graph) -> Result<()>;

        #[namespace = "at"]
        type Tensor;
        unsafe fn copy_of(
            data: *const u8,
            size: &[i64],
            kind: i8,
            pinned: bool,
        ) -> Result<*mut Tensor>;
    }
}
