//! Kernels on the C++ side, as cxx sees it; its headers say what each function does.

#[allow(unreachable_pub, reason = "cxx makes everything public, and this module is private")]
#[cxx::bridge(namespace = "nearkin")]
pub(crate) mod ffi {
    unsafe extern "C++" {
        include!("nearkin-torch/src/bridge/batch_norm.hpp");
        include!("nearkin-torch/src/bridge/lists.hpp");

        #[namespace = "at"]
        type Tensor;

        type Pass;
        fn begin_pass() -> UniquePtr<Pass>;
        unsafe fn moments(self: &Pass, x: *const Tensor, groups: i64) -> Result<*mut Tensor>;
        #[allow(clippy::too_many_arguments, reason = "a function of C++ has no other form here")]
        unsafe fn normalise(
            self: &Pass,
            x: *const Tensor,
            moments: *const Tensor,
            weight: *const Tensor,
            bias: *const Tensor,
            shortcut: *const Tensor,
            relu: bool,
            running_mean: *const Tensor,
            running_variance: *const Tensor,
            count: f64,
            overwrite: bool,
        ) -> Result<*mut Tensor>;

        unsafe fn move_towards(averages: &[usize], values: &[usize], weight: f64) -> Result<()>;
        unsafe fn move_towards_by(
            averages: &[usize],
            values: &[usize],
            weight: *const Tensor,
        ) -> Result<()>;
        #[allow(clippy::too_many_arguments, reason = "a function of C++ has no other form here")]
        unsafe fn descend(
            parameters: &[usize],
            gradients: &[usize],
            velocities: &[usize],
            learning_rate: f64,
            held: *const Tensor,
            unless: *const Tensor,
            weight_decay: f64,
            momentum: f64,
            nesterov: bool,
        ) -> Result<()>;
        #[allow(clippy::too_many_arguments, reason = "a function of C++ has no other form here")]
        unsafe fn adapt(
            parameters: &[usize],
            gradients: &[usize],
            means: &[usize],
            mean_squares: &[usize],
            counts: &[usize],
            learning_rate: f64,
            held: *const Tensor,
            unless: *const Tensor,
            weight_decay: f64,
            beta_1: f64,
            beta_2: f64,
            epsilon: f64,
        ) -> Result<()>;
        #[allow(clippy::too_many_arguments, reason = "a function of C++ has no other form here")]
        unsafe fn descend_by_layer(
            parameters: &[usize],
            gradients: &[usize],
            velocities: &[usize],
            learning_rate: f64,
            held: *const Tensor,
            unless: *const Tensor,
            weight_decay: f64,
            momentum: f64,
            trust: f64,
            inside: bool,
        ) -> Result<()>;
    }
}
