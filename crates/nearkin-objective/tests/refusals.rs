//! Settings that make no sense, or that would silently do nothing, are refused with the reason.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nearkin_objective::from_table;

fn refusal(text: &str) -> String {
    let table = text.parse().unwrap();
    from_table(&table).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn pieces_that_do_not_fit_each_other_are_refused() {
    for (pieces, message) in [
        (
            "target = { relations = { kind = \"softmax\", temperature = 0.05 } }",
            "method.target.coefficient = 1: it leaves no weight for target.relations",
        ),
        ("target = { coefficient = 0.3 }", "without target.relations there is nothing"),
        (
            "target = { relations = { kind = \"softmax\", temperature = -1.0 }, coefficient = 0.5 }",
            "method.target.relations.temperature = -1",
        ),
        (
            "target = { relations = { kind = \"selected\" }, coefficient = 0.5 }",
            "method.target.relations = selected: nothing is selected",
        ),
        (
            "selection = { top_k = 4 }\ntarget = { relations = { kind = \"labels\" }, coefficient = 0.5 }\n\
             denominator = \"without_selected\"",
            "method.selection = set: labels select here",
        ),
        ("selection = { top_k = 4 }", "neither target.relations nor the denominator look at it"),
        (
            "selection = {}\ndenominator = \"without_selected\"",
            "method.selection.top_k = nothing: give top_k, threshold, or both",
        ),
        ("denominator = \"without_selected\"", "method.denominator = without_selected: nothing is"),
        (
            "selection = { top_k = 4 }\ndenominator = \"without_selected\"\n\
             target = { positives = \"nearest_neighbour\" }",
            "the positive itself would leave the denominator",
        ),
        (
            "target = { coefficient = { rule = \"refinery\", strength = 1.0 } }",
            "the refinery needs target.relations of kind \"softmax\"",
        ),
        (
            "candidates = \"views\"\ntarget = { relations = { kind = \"softmax\", temperature = 0.1 }, \
             coefficient = { rule = \"refinery\", strength = 1.0 } }",
            "the refinery needs keys",
        ),
        (
            "target = { coefficient = { rule = \"entropy\", strength = 1.0 } }",
            "the entropy is that of",
        ),
        ("target = { coefficient = { rule = \"count\" } }", "there is something to count where"),
        ("teacher = \"support\"", "teacher = \"support\" and support_views > 0 go together"),
        ("teacher = \"support\"\nsupport_views = 1", "nothing asks the teacher"),
        ("candidates = \"views\"\nsymmetric = true", "candidates = \"views\" has none"),
        (
            "mixup = { kind = \"vanilla\", weight = 1.0, concentration = 1.0 }",
            "mixed anchors need shared candidates",
        ),
        (
            "candidates = \"keys_and_queue\"\ndenominator = \"negatives\"\n\
             mixup = { kind = \"vanilla\", weight = 1.0, concentration = 1.0 }",
            "mixed anchors need denominator = \"all\"",
        ),
        (
            "candidates = \"keys_and_queue\"\n\
             mixup = { kind = \"vanilla\", weight = 0.0, concentration = 1.0 }",
            "method.mixup.weight = 0: it must be above 0",
        ),
        (
            "candidates = \"keys_and_queue\"\n\
             mixup = { kind = \"vanilla\", weight = 1.0, concentration = -1.0 }",
            "method.mixup.concentration = -1",
        ),
    ] {
        let said = refusal(&format!("name = \"combination\"\n{pieces}"));
        assert!(said.contains(message), "{pieces}\n  said: {said:?}");
    }
}

#[test]
fn hyper_parameters_out_of_range_are_refused() {
    for (table, message) in [
        ("name = \"sane\"\nstrength = 1e39", "method.strength = 1"),
        ("name = \"sane\"\nmixing = { concentration = 1e-310 }", "method.mixing.concentration = "),
        ("name = \"sane\"\nstrength = { from = 0.0, to = -1.0 }", "method.strength = -1"),
        ("name = \"fnc\"\nthreshold = nan", "method.threshold = NaN"),
        ("name = \"fnc\"\ntop_k = 0\nthreshold = -2.0", "give top_k, threshold, or both"),
        (
            "name = \"fnc\"\nselection = \"labels\"",
            "support views are of use only where scores select",
        ),
        ("name = \"fnc\"\nsupport = \"anchors_too\"", "every view is support"),
        ("name = \"debiased\"\nclass_prior = 1.0", "method.class_prior = 1"),
        ("name = \"hcl\"\nconcentration = -0.5", "method.concentration = -0.5"),
        ("name = \"sce\"\ncoefficient = { from = 1.0, to = 1.5 }", "method.coefficient = 1.5"),
        ("name = \"ressl\"\ntemperature_momentum = 0", "method.temperature_momentum = 0"),
    ] {
        let said = refusal(table);
        assert!(said.contains(message), "{table}\n  said: {said:?}");
    }
}

#[test]
fn numbers_of_views_that_do_not_fit_are_refused() {
    for (table, views, message) in [
        ("name = \"simclr\"", 1, "1 [[views]]: at least 2 are needed"),
        ("name = \"fnc\"", 3, "3 [[views]]: at least 4 are needed (two, and support_views)"),
        ("name = \"clsa\"", 2, "at least 3 are needed"),
        ("name = \"debiased\"", 3, "the method takes exactly two"),
        ("name = \"imix\"", 3, "the method takes exactly two"),
        ("name = \"sane\"", 5, "or pairs of them"),
        ("name = \"sane\"\nmixup = \"vanilla\"", 3, "the method takes exactly two"),
        ("name = \"sce\"\nsymmetric = true\nglobal_views = 3", 2, "method.global_views = 3"),
    ] {
        let method = from_table(&table.parse().unwrap()).unwrap().method;
        let said = method.requirements(views).unwrap_err().to_string();
        assert!(said.contains(message), "{table}\n  said: {said:?}");
    }
}
