//! Mixing images, so that an anchor stands for two of them (mixup, Zhang et al., ICLR 2018; momentum
//! mixup, SANE, equation 8).

use tch::{TchError, Tensor};

/// `share_i base_i + (1 - share_i) other_partner(i)`, of any shape `[batch, ...]`; `partner` holds
/// indices into `other` and `share` numbers within 0 and 1, both `[batch]`.
pub fn mix(
    base: &Tensor,
    other: &Tensor,
    partner: &Tensor,
    share: &Tensor,
) -> Result<Tensor, TchError> {
    let mut shape = vec![1; base.dim()];
    shape[0] = share.size()[0];
    let share = share.f_to_kind(base.kind())?.f_view(shape.as_slice())?;
    other.f_index_select(0, partner)?.f_lerp_tensor(base, &share)
}
