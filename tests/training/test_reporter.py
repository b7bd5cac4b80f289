from rlhf.training.reporter import rename


def test_names_by_hand() -> None:
    logs = {"loss": 1, "eval_loss": 2, "eval_rewards/accuracies": 0.5, "eval_runtime": 3, "epoch": 1, "total_flos": 9}
    assert rename(logs) == {"train/loss": 1.0, "eval/loss": 2.0, "eval/rewards/accuracies": 0.5}
