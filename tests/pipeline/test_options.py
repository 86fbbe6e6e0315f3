import argparse

import pytest

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import options
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.job_command import job_parser


def parse(*arguments: str) -> tuple[dict[str, object], tuple[str, ...]]:
    return options.parse_job_options(job_parser("run"), arguments)


def config(*arguments: str) -> options.JobConfig:
    return options.job_config(parse("--input", "x.jsonl", *arguments)[0])


def test_options_that_were_not_given_are_not_there():
    assert parse("--input", "a", "b", "--input", "c") == ({"input": ["a", "b", "c"]}, ())


def test_kebab_case_is_snake_case_and_values_stay():
    given, _ = parse("--num-topics", "7", "--id-key=my-id", "--keep-text")
    assert given == {"num_topics": 7, "id_key": "my-id", "keep_text": True}


def test_what_beam_knows_goes_to_beam_unchanged():
    given, beam_args = parse("--input", "a", "--runner", "FlinkRunner", "--temp_location=gs://b/t")
    assert given == {"input": ["a"]}
    assert beam_args == ("--runner", "FlinkRunner", "--temp_location=gs://b/t")


def test_what_neither_knows_is_named():
    with pytest.raises(UsageError, match="--colour"):
        parse("--input", "a", "--colour", "red")


def test_a_stray_word_is_named():
    with pytest.raises(UsageError, match="'stray'"):
        parse("--runner", "FlinkRunner", "stray")


def test_abbreviations_are_not_guessed():
    with pytest.raises(UsageError, match="--num_top"):
        parse("--num_top", "3")


def test_a_whole_number_is_a_count_and_a_fraction_a_share():
    counts = config("--min_df", "3", "--max_df", "0.25").counts
    assert (counts.min_df, counts.max_df) == (3, 0.25)
    assert isinstance(config("--max_df", "1").counts.max_df, int)
    assert isinstance(config("--max_df", "1.0").counts.max_df, float)


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        (["--min_df", "0"], "min_df", "0"),
        (["--max_df", "1.5"], "max_df", "1.5"),
        (["--num_topics", "0"], "num_topics", "0"),
        (["--features", "tfidf,magic"], "features", "magic"),
        (["--top_k", "0"], "top_k", "0"),
        (["--max_seq_length", "2"], "max_seq_length", "2"),
        (["--lda_passes", "-1"], "lda_passes", "-1"),
    ],
)
def test_a_wrong_value_names_option_and_value(arguments, option, value):
    with pytest.raises(ConfigError, match=f"--{option} .*{value}") as caught:
        config(*arguments)
    assert caught.value.option == option


def test_features_are_in_a_fixed_order():
    assert config("--features", "bert,tfidf").features == ("tfidf", "bert")
    assert config().features == ("tfidf", "textrank", "lda", "bert")


@pytest.mark.parametrize("run_id", ["../x", "a/b", "..", ".hidden", "", "a..b", "x" * 200])
def test_a_run_id_cannot_leave_its_folder(run_id):
    with pytest.raises(ConfigError, match="run_id"):
        options.RunSettings(output="out", run_id=run_id)


def test_input_and_output_are_required():
    with pytest.raises(UsageError, match="--input"):
        options.job_config({})
    with pytest.raises(UsageError, match="--output"):
        options.run_settings({}, ())


def test_the_command_line_wins_over_the_file(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(
        "input: [a.jsonl, b.jsonl]\nnum-topics: 9\ntop_k: 3\nfeatures: [tfidf, lda]\n"
        "keep_text: true\nrunner: FlinkRunner\n"
    )
    given, beam_args = parse("--config", str(file), "--num_topics", "4")
    assert given == {
        "input": ["a.jsonl", "b.jsonl"],
        "num_topics": 4,
        "top_k": 3,
        "features": ("tfidf", "lda"),
        "keep_text": True,
    }
    assert beam_args == ("--runner=FlinkRunner",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b\n", "mapping"),
        ("a: [", "cannot be read"),
        ("top_k: {a: 1}", "plain or a list"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
    ],
)
def test_a_bad_config_file_is_named(tmp_path, text, reason):
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        parse("--config", str(file))


def test_an_unknown_name_in_the_file_is_an_error(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text("colour: red\n")
    with pytest.raises(UsageError, match="--colour"):
        parse("--config", str(file))


@pytest.mark.parametrize(("text", "size"), [("auto", "auto"), ("16M", 16 << 20), ("100", 100)])
def test_split_sizes(text, size):
    assert options.bytes_or_auto(text) == size


def test_a_wrong_split_size_is_refused():
    with pytest.raises(argparse.ArgumentTypeError, match="16Q"):
        options.bytes_or_auto("16Q")
