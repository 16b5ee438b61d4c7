//! A method and a data set of another crate are trained like nearkin's own.

use std::process::Command;

#[test]
fn two_epochs_of_eight_steps_are_trained() {
    let output = Command::new(env!("CARGO_BIN_EXE_outside")).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let losses = said.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    let losses: Vec<f64> = losses.collect();
    assert_eq!(losses.len(), 16, "{said}");
    assert!(losses.iter().all(|loss| loss.is_finite() && *loss > 0.0), "{said}");
}
