"""Tests of the tables, run by `make test`; they need nothing but Python."""

import unittest

import report


def run(rate, loss=1.0, parameters=1000, peak=100.0):
    return {"images_per_second": rate, "first_loss": loss, "parameters": parameters, "peak_mebibytes": peak}


class Report(unittest.TestCase):
    def rows(self, **changes):
        nearkin = report.Row("nearkin", [run(200.0), run(300.0), run(210.0)])
        runs = [run(100.0, **changes), run(100.0, **changes), run(140.0, **changes)]
        return [nearkin, report.Row("other", runs, reference=nearkin, target=2.0)]

    def test_a_plan_covers_all_steps_in_whole_records_and_epochs(self):
        for steps, available in ((40, 50_000), (40, 10_000), (3, 10_000), (4, 256), (25, 500)):
            plan = report.plan(128, steps, available)
            self.assertEqual((plan.warm_up % plan.record_every, steps % plan.record_every), (0, 0))
            self.assertLessEqual(plan.images, available)
            self.assertEqual(plan.images % 128, 0)
            self.assertGreaterEqual(plan.images // 128 * plan.epochs, plan.warm_up + steps)
        with self.assertRaisesRegex(ValueError, "more than 100 images"):
            report.plan(128, 1, 100)

    def test_a_rate_leaves_the_warm_up_out(self):
        records = [{"kind": "event", "step": 0, "seconds": 0.5}]
        records += [{"kind": "step", "step": step, "seconds": at} for step, at in ((10, 9.0), (20, 10.0), (30, 11.0))]
        records += [{"kind": "epoch", "step": 30, "seconds": 50.0}]
        self.assertEqual(report.recorded_rate(records, 128, 10, 20), 1280.0)

    def test_ratios_are_of_the_same_round(self):
        nearkin, other = self.rows()
        self.assertEqual(other.ratios(), [2.0, 3.0, 1.5])
        self.assertEqual(other.cells()[2:4], ["2.00 (1.50 to 3.00)", "2.0: 2 of 3 rounds"])
        self.assertEqual(nearkin.cells()[:4], ["nearkin", "210 (200 to 300)", "", ""])

    def test_another_job_is_flagged(self):
        self.assertEqual(self.rows(loss=1.05)[1].cells()[-2:], ["1,000", "1.050"])
        self.assertIn("OFF by -20 %", self.rows(loss=0.8)[1].cells()[-1])
        self.assertIn("OTHER NETWORK", self.rows(parameters=999)[1].cells()[-2])
        other = self.rows(loss=0.8)[1]
        other.same_loss = False
        self.assertEqual(other.cells()[-1], "0.800, not compared")

    def test_small_rates_keep_three_figures(self):
        self.assertEqual(report.spread([2.345, 1.0, 3.0]), "2.35 (1.00 to 3.00)")
        self.assertEqual(report.spread([1234.5]), "1,234 (1,234 to 1,234)")

    def test_both_forms_hold_every_row(self):
        rows = self.rows()
        lines = report.markdown(rows).splitlines()
        self.assertEqual(len(lines), 4)
        self.assertEqual({line.count("|") for line in lines}, {len(report.HEAD) + 1})
        self.assertTrue(lines[2].startswith("| nearkin | 210 (200 to 300) | | | 100 (100 to 100) |"))
        self.assertEqual([line.split()[0] for line in report.text(rows).splitlines()[1:]], ["nearkin", "other"])

    def test_only_what_is_between_the_markers_changes(self):
        document = f"# Title\n\n{report.BEGIN}\nold\n{report.END}\n\n## Next\n"
        new = f"# Title\n\n{report.BEGIN}\n\nnew\n\n{report.END}\n\n## Next\n"
        self.assertEqual(report.replaced(document, "new\n"), new)
        self.assertEqual(report.replaced(new, "new"), new)
        for broken in ("# Title\n", f"{report.BEGIN}\n", f"{report.END}\n{report.BEGIN}\n"):
            with self.assertRaisesRegex(ValueError, "are not there"):
                report.replaced(broken, "new")


if __name__ == "__main__":
    unittest.main()
