"Data sets of the hub and saved ones become Parquet files; a stream that breaks goes on."

import errno
import shutil
import sys
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_sets import Stream, films, png

from radgen.core.errors import ConfigError, DataError
from radgen.core.files import read_json
from radgen.data import hub, row_files
from radgen.data.hub import WAITS, HubName, fetch_hub, hub_name, is_saved, read_saved
from radgen.data.row_files import RowConverter, SplitWriter, _OpenFile

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")


@pytest.fixture
def naps(monkeypatch):
    "Seconds that were waited."
    seconds = []
    monkeypatch.setattr(hub.time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def remote(monkeypatch, naps):
    "What the hub gives: the splits, the commit, and what was requested of it."
    state = SimpleNamespace(splits={}, commit="c0ffee", requests=[])

    def load(path, config, revision, streaming):
        state.requests.append((path, config, revision, streaming))
        return state.splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub, "_commit", lambda at: state.commit)
    return state


def numbers(folder, split="train"):
    "The numbers of the rows of a split, in order, where images and texts are theirs."
    found = []
    for file in sorted(folder.glob(f"{split}-*.parquet")):
        for row in pq.read_table(file).to_pylist():
            assert row["scan"] == {"bytes": png(row["number"]), "path": f"{row['number']}.png"}
            assert row["impression"] == f"film {row['number']}"
            found.append(row["number"])
    return found


def make_hub(folder, sizes=(10, 10, 10), batch=4):
    "A folder of Parquet files, as on the hub."
    folder.mkdir(parents=True)
    first = 0
    for i, n in enumerate(sizes):
        films(n, first).to_parquet(folder / f"train-{i}.parquet", batch_size=batch)
        first += n
    return folder


def test_names_have_configurations_and_revisions(tmp_path):
    assert hub_name("owner/films") == HubName("owner/films", None, None)
    assert hub_name("owner/films:chest") == HubName("owner/films", "chest", None)
    assert hub_name("owner/films@refs/convert/parquet") == HubName("owner/films", None, "refs/convert/parquet")
    assert hub_name("owner/films:chest@v1.2") == HubName("owner/films", "chest", "v1.2")
    (tmp_path / "a:b@c").mkdir()
    assert hub_name(str(tmp_path / "a:b@c")) == HubName(str(tmp_path / "a:b@c"))
    assert hub_name(f"{tmp_path}:chest") == HubName(str(tmp_path), "chest", None)
    for wrong in "/no/such", "a/b/c", "https://huggingface.co/datasets/a/b", "../up", "a b", "", "C:\\films\\x":
        with pytest.raises(DataError, match="neither a folder nor the name of a data set: write hf:OWNER/NAME"):
            hub_name(wrong)


def test_request_has_the_configuration_and_the_commit(remote):
    remote.splits = {"train": films(3)}
    folder = fetch_hub("owner/films:chest@v1", streaming=True)
    assert remote.requests == [("owner/films", "chest", "c0ffee", True)]
    assert read_json(folder / "source.json") == {
        "source": "owner/films:chest@v1",
        "revision": "c0ffee",
        "limit": None,
        "keep": None,
        "rows": {"train": 3},
    }
    fetch_hub("owner/films")
    assert remote.requests[1] == ("owner/films", None, "c0ffee", False)


def test_image_files_are_read_from_the_repository_of_the_data_set_alone(remote, monkeypatch, tmp_path):
    from datasets.features import image

    (tmp_path / "a.png").write_bytes(png(3))
    monkeypatch.setattr(image, "xopen", lambda path, mode, download_config: (tmp_path / "a.png").open(mode))
    paths = [f"hf://datasets/owner/{name}@c0ffee/a.png" for name in ("films", "secret")]
    features = datasets.Features(scan=datasets.Image(decode=False), text=datasets.Value("string"))
    cells = {"scan": [{"bytes": None, "path": path} for path in paths], "text": ["a", "b"]}
    remote.splits = {"train": datasets.Dataset.from_dict(cells, features=features)}
    for name, contents in ("owner/films", [png(3), None]), ("owner/secret", [None, png(3)]):
        found = pq.read_table(fetch_hub(name) / "train-00000.parquet")["scan"].to_pylist()
        assert [cell["bytes"] for cell in found] == contents


def test_splits_limit_and_columns(remote):
    remote.splits = {"train": films(70), "validation": films(3), "my_own.split": films(0)}
    folder = fetch_hub("owner/films", limit=66)
    assert numbers(folder) == list(range(66))
    assert numbers(folder, "validation") == [0, 1, 2]
    assert read_json(folder / "source.json")["rows"] == {"train": 66, "validation": 3, "my_own.split": 0}
    few = fetch_hub("owner/films", limit=2, keep=["impression", "scan"])
    assert pq.read_schema(few / "train-00000.parquet").names == ["impression", "scan"]
    with pytest.raises(DataError, match=r"no column age in hf:owner/films: its columns are scan \(image\)"):
        fetch_hub("owner/films", keep=["age"])
    remote.splits = {"../up": films(2)}
    with pytest.raises(DataError, match="hf:owner/films has a split called '../up'"):
        fetch_hub("owner/films", limit=3)


def test_columns_of_all_splits_are_checked_before_any_is_written(remote, tmp_path):
    remote.splits = {"train": films(70), "test": films(3).remove_columns("scan")}
    with pytest.raises(DataError, match="no column of images in hf:owner/films"):
        fetch_hub("owner/films")
    assert not list((tmp_path / "cache").rglob("*.parquet"))


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 199])
def test_stream_that_breaks_goes_on_within_one_call(remote, naps, capsys, at):
    remote.splits = {"train": Stream(films(200), at, [4])}
    assert numbers(fetch_hub("owner/films", streaming=True)) == list(range(200))
    assert naps == list(WAITS)
    assert f"broke after {at} rows (ConnectionError: the network is gone): opened again" in capsys.readouterr().err


def test_each_new_row_starts_the_attempts_again(remote, naps):
    rows = Stream(films(30), 5, [4])
    second = Stream(rows, 20, [4])
    second.features = rows.features
    remote.splits = {"train": second}
    assert numbers(fetch_hub("owner/films", streaming=True)) == list(range(30))
    assert naps == [*WAITS, *WAITS]


def test_next_call_goes_on_after_the_rows_stored(remote, naps, tmp_path):
    remote.splits = {"train": films(40), "test": Stream(films(100), 70, [6])}
    wanted = r"hf:owner/films broke in the split test after 70 rows \(ConnectionError: .*\): 110 rows are stored, and"
    with pytest.raises(DataError, match=f"{wanted} the same command goes on after them"):
        fetch_hub("owner/films", streaming=True)
    (partial,) = (tmp_path / "cache/hub").glob("*.partial")
    assert numbers(partial, "test") == list(range(70))
    kept = (partial / "train-00000.parquet").stat().st_mtime_ns
    remote.commit = "later"
    folder = fetch_hub("owner/films", streaming=True)
    assert {request[2] for request in remote.requests} == {"c0ffee"}  # not rows of two commits
    assert numbers(folder, "test") == list(range(100))
    assert numbers(folder, "train") == list(range(40))
    assert (folder / "train-00000.parquet").stat().st_mtime_ns == kept
    assert not partial.exists()


def test_limit_counts_the_rows_of_all_calls(remote):
    remote.splits = {"train": Stream(films(100), 30, [5])}
    with pytest.raises(DataError, match="30 rows are stored"):
        fetch_hub("owner/films", streaming=True, limit=50)
    assert numbers(fetch_hub("owner/films", streaming=True, limit=50)) == list(range(50))


def test_interrupted_process_keeps_its_rows(remote, monkeypatch, tmp_path):
    stored = RowConverter.stored

    def interrupted(self, row):
        if row["number"] == 20:
            raise KeyboardInterrupt
        return stored(self, row)

    remote.splits = {"train": films(30)}
    with monkeypatch.context() as m:
        m.setattr(RowConverter, "stored", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_hub("owner/films")
    (partial,) = (tmp_path / "cache/hub").glob("*.partial")
    assert numbers(partial) == list(range(20))
    assert numbers(fetch_hub("owner/films")) == list(range(30))


@pytest.mark.parametrize("when", ["before", "after"])
def test_interrupt_within_a_write_neither_loses_nor_doubles_rows(remote, monkeypatch, when):
    write, files = _OpenFile.write, []

    def interrupted(self, group):
        files.append(self)
        if len(files) < 4 or when == "after":
            write(self, group)
        if len(files) == 4:
            raise KeyboardInterrupt

    remote.splits = {"train": films(300)}
    monkeypatch.setattr(row_files, "FILE_BYTES", 10_000)  # two groups
    with monkeypatch.context() as m:
        m.setattr(_OpenFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_hub("owner/films")
    assert numbers(fetch_hub("owner/films")) == list(range(300))


def test_full_disk_is_an_error_and_not_tried_again(remote, naps, monkeypatch):
    def full(self, row, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    remote.splits = {"train": films(3)}
    monkeypatch.setattr(SplitWriter, "add", full)
    with pytest.raises(DataError, match=r"cannot be stored in .*No space left on device.*set RADGEN_CACHE"):
        fetch_hub("owner/films", streaming=True)
    assert naps == []


@pytest.mark.parametrize("at", [0, 3, 4, 9, 10, 13, 29])
def test_stream_of_the_library_goes_on_at_its_place(tmp_path, monkeypatch, at):
    "The rows before a break are not read again but for those of its file."
    folder = make_hub(tmp_path / "hub")
    stored, seen = RowConverter.stored, []

    def breaking(self, row):
        if row["number"] == at and at not in seen:
            seen.append(at)
            raise ConnectionError("the network is gone")
        return stored(self, row)

    monkeypatch.setattr(RowConverter, "stored", breaking)
    with pytest.raises(DataError, match=f"after {at} rows .*{at} rows are stored"):
        fetch_hub(str(folder))
    monkeypatch.setattr(datasets.IterableDataset, "skip", None)
    assert numbers(fetch_hub(str(folder))) == list(range(30))
    seen.clear()
    monkeypatch.setattr(hub, "_folder_state", lambda folder: "another")
    fetch = hub._Fetch
    monkeypatch.setattr(hub, "_Fetch", lambda *given: fetch(given[0], given[1], (0, 0), *given[3:]))
    assert numbers(fetch_hub(str(folder))) == list(range(30))  # and within one call


def test_data_are_fetched_once_and_again_where_a_local_folder_changed(remote, tmp_path, monkeypatch):
    remote.splits = {"train": films(3)}
    folder = fetch_hub("owner/films")
    assert fetch_hub("owner/films") == folder
    assert len(remote.requests) == 1
    assert fetch_hub("owner-films") != folder
    monkeypatch.undo()
    monkeypatch.setenv("RADGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library")
    make_hub(tmp_path / "hub", (3,))
    assert numbers(fetch_hub(str(tmp_path / "hub"))) == [0, 1, 2]
    shutil.rmtree(tmp_path / "hub")
    make_hub(tmp_path / "hub", (4,))
    assert numbers(fetch_hub(str(tmp_path / "hub"))) == [0, 1, 2, 3]


def test_saved_data_sets(tmp_path):
    films(5).save_to_disk(tmp_path / "one")
    assert is_saved(tmp_path / "one")
    assert numbers(read_saved(tmp_path / "one"), "all") == list(range(5))
    assert fetch_hub(str(tmp_path / "one")) == read_saved(str(tmp_path / "one"))
    splits = {"train": films(70), "test": films(2)}
    datasets.DatasetDict(splits).with_format("numpy").save_to_disk(tmp_path / "two")
    assert is_saved(tmp_path / "two")
    folder = read_saved(tmp_path / "two", limit=65)
    assert numbers(folder) == list(range(65))
    assert numbers(folder, "test") == [0, 1]
    for split, name in ("validation", "validation"), ("train[:10%]", "train"), ("train+test", "all"):
        rows = films(2)
        rows._split = datasets.NamedSplit(split) if split.isalpha() else split
        assert hub._split_of(rows) == name
    (tmp_path / "one/state.json").write_text("{")
    with pytest.raises(DataError, match="one cannot be read as a saved data set .*: save it again"):
        read_saved(tmp_path / "one")
    for other in tmp_path, tmp_path / "none", make_hub(tmp_path / "hub"):
        assert not is_saved(other)


def test_image_folder_is_stored_with_its_bytes(tmp_path, capsys):
    home = tmp_path / "films/train"
    home.mkdir(parents=True)
    for i in range(3):
        (home / f"{i}.png").write_bytes(png(i))
    (tmp_path / "elsewhere.png").write_bytes(png(3))
    (home / "3.png").symlink_to(tmp_path / "elsewhere.png")
    rows = "".join(f"{i}.png,film {i},{i}\n" for i in range(4))
    (home / "metadata.csv").write_text("file_name,text,number\n" + rows)
    folder = fetch_hub(str(tmp_path / "films"))
    found = pq.read_table(folder / "train-00000.parquet").to_pylist()
    assert [row["image"]["bytes"] for row in found] == [png(0), png(1), png(2), None]
    assert [row["text"] for row in found] == [f"film {i}" for i in range(4)]
    assert "train: 1 images name a file that is not in the data set or unreadable" in capsys.readouterr().err


def test_parquet_of_other_writers_is_read(tmp_path):
    "Records of bytes and path, and plain bytes, without the library's metadata."
    (tmp_path / "hub").mkdir()
    cells = {"image": [{"bytes": png(1), "path": "a.png"}, None], "raw": [png(2), png(3)], "text": ["a", "b"]}
    pq.write_table(pa.table(cells), tmp_path / "hub/train.parquet")
    folder = fetch_hub(str(tmp_path / "hub"))
    found = pq.read_table(folder / "train-00000.parquet").to_pydict()
    assert found["image"] == cells["image"]
    assert [cell["bytes"] for cell in found["raw"]] == cells["raw"]


def test_configurations_are_listed(tmp_path):
    for part in "chest", "head":
        make_hub(tmp_path / "hub" / part, (2,))
    (tmp_path / "hub/README.md").write_text(
        "---\nconfigs:\n- config_name: chest\n  data_files: chest/*\n- config_name: head\n  data_files: head/*\n---\n"
    )
    for name in str(tmp_path / "hub"), f"{tmp_path / 'hub'}:knee":
        with pytest.raises(DataError, match=r"its configurations are chest, head; write hf:.*hub:chest\."):
            fetch_hub(name)
    assert numbers(fetch_hub(f"{tmp_path / 'hub'}:head")) == [0, 1]


def test_programs_of_data_sets_are_not_run(tmp_path, monkeypatch):
    (tmp_path / "old").mkdir()
    (tmp_path / "old/old.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(DataError, match=r"comes with a program.*@refs/convert/parquet"):
        fetch_hub(str(tmp_path / "old"))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match="needs a newer datasets than 3.6.0: pip install -U 'datasets>=4'"):
        fetch_hub("owner/films")


def test_library_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"needs the library datasets: pip install 'radgen\[hub\]'"):
        fetch_hub("owner/films")


def test_hub_that_cannot_be_reached_is_an_error(monkeypatch):
    def unreachable(*given, **options):
        raise ConnectionError("Couldn't reach 'owner/films' on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", unreachable)
    wanted = "hf:owner/films@v1 cannot be fetched .*Couldn't reach.*check the name and the network, or give --data-path"
    with pytest.raises(DataError, match=wanted):
        fetch_hub("owner/films@v1")
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: {"train": films(1)})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *given, **options: SimpleNamespace(sha="c0ffee"))
    assert read_json(fetch_hub("owner/films@v1") / "source.json")["revision"] == "c0ffee"
