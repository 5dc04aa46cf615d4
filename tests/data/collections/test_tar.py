import io
import tarfile

import pytest

from align_jax.data.collections import CollectionError, FileRecord, Item, Options, Refused, open_images, open_texts
from align_jax.data.collections import item as limits
from align_jax.data.collections import tar as module
from tests.data.collections.made import (
    assert_restarts_anywhere,
    entries,
    ids,
    member,
    picture,
    reasons,
    sample,
    tar_bytes,
    write_tree,
)


@pytest.fixture
def opened(tmp_path):
    def open_members(*members, form=tarfile.GNU_FORMAT, columns=(), opener=open_images, **options):
        path = tmp_path / "00000.tar"
        path.write_bytes(tar_bytes(members, form))
        return opener(path, Options(columns=columns, **options))

    return open_members


def test_samples_of_img2dataset_become_items_with_their_metadata(opened):
    members = [*sample("000000000", 0, url="http://a", width=3), *sample("000000001", 1, text="ein Ü", tags=["x"])]
    collection = opened(*members, columns=("url", "width", "tags", "txt"))
    first, second = entries(collection)
    assert first == Item("00000/000000000", picture(0), {"url": "http://a", "width": "3", "tags": None, "txt": "a cat"})
    assert second == Item("00000/000000001", picture(1), {"url": None, "width": None, "tags": '["x"]', "txt": "ein Ü"})
    assert_restarts_anywhere(collection)
    assert [entry.content for entry in entries(opened(*members, opener=open_texts))] == [b"a cat", "ein Ü".encode()]


def test_many_samples_are_read_from_any_of_them(opened, monkeypatch):
    monkeypatch.setattr(module, "_STRIDE", 4)
    assert_restarts_anywhere(opened(*(one for number in range(11) for one in sample(f"{number:03}", number))))


def test_several_tars_of_a_folder_follow_one_another(tmp_path):
    shards = {f"{name}.tar": tar_bytes([*sample("a"), *sample("b")]) for name in ("01", "00", "deep/02")}
    collection = open_images(write_tree(tmp_path, shards | {"00.parquet": b"PAR1", "00_stats.json": "{}"}))
    assert ids(collection) == ["00/a", "00/b", "01/a", "01/b", "deep/02/a", "deep/02/b"]
    assert_restarts_anywhere(collection)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_format(opened, form):
    name = f"{'long' * 30}/{'name' * 20}" if form == tarfile.USTAR_FORMAT else f"{'lang' * 40}/ünï-{'名' * 30}"
    collection = opened(member(f"./{name}.jpg", picture()), *sample("b"), form=form)
    assert ids(collection) == [f"00000/{name}", "00000/b"]
    assert_restarts_anywhere(collection)


def test_key_ends_at_the_first_dot_of_the_last_part(opened):
    assert ids(opened(member("a.b/c.d.JPG", picture()), member("a.b/e.jpg", picture()), column="d.jpg")) == [
        "00000/a.b/c"
    ]


HOSTILE = {
    "../evil.jpg": (member("../evil.jpg", b"x"), "leads out of the folder"),
    "a/../../evil.jpg": (member("a/../../evil.jpg", b"x"), "leads out of the folder"),
    "..\\evil.jpg": (member("..\\evil.jpg", b"x"), "leads out of the folder"),
    "/etc/passwd.jpg": (member("/etc/passwd.jpg", b"x"), "absolute path"),
    "C:\\evil.jpg": (member("C:\\evil.jpg", b"x"), "absolute path"),
    "link.jpg": (member("link.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "a symbolic link"),
    "hard.jpg": (member("hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"), "a hard link"),
    "null.jpg": (member("null.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "a character device"),
    "sda.jpg": (member("sda.jpg", type=tarfile.BLKTYPE, devmajor=8), "a block device"),
    "pipe.jpg": (member("pipe.jpg", type=tarfile.FIFOTYPE), "a pipe"),
    "sparse.jpg": (member("sparse.jpg", b"x", type=tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "what.jpg": (member("what.jpg", type=b"Q"), "not known"),
    ".jpg": (member(".jpg", b"x"), "nothing before the suffix"),
    "no suffix": (member("no suffix", b"x"), "nothing to take as the image"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_member_is_refused_and_the_others_are_read(opened, name):
    hostile, reason = HOSTILE[name]
    collection = opened(*sample("a"), hostile, *sample("b"))
    assert ids(collection) == ["00000/a", "00000/b"]
    ((refused, why),) = reasons(collection).items()
    assert refused == f"00000/{name}"
    assert reason in why
    assert_restarts_anywhere(collection)


def test_sparse_file_of_pax_is_refused(opened):
    sparse = member("holes.jpg", b"x", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.name": "holes.jpg"})
    collection = opened(sparse, *sample("b"), form=tarfile.PAX_FORMAT)
    assert reasons(collection) == {"00000/holes.jpg": "it is a sparse file"}
    assert ids(collection) == ["00000/b"]


@pytest.mark.parametrize("declared", [10**5, 8**11 - 1, 2**60])
def test_size_that_the_file_does_not_have_is_refused_without_reading(opened, declared):
    collection = opened(*sample("a"), member("b.jpg", b"x", size=declared), *sample("c"))
    assert ids(collection) == ["00000/a"]
    assert reasons(collection)["00000/b.jpg"].startswith(f"the tar is cut: {declared} bytes were declared")
    assert_restarts_anywhere(collection)


def test_huge_header_is_refused_without_reading(opened):
    name = member("././@LongLink", b"a" * (2**17), type=tarfile.GNUTYPE_LONGNAME)
    assert "a name of 131072 bytes" in next(iter(reasons(opened(*sample("a"), name, *sample("b"))).values()))


@pytest.mark.parametrize("header", [b"17 path=../x.jpg\n", b"99 path=x\n", b"x", b"13 size=big\n\n\n", b"9 size=-1\n"])
def test_damaged_extended_header_ends_the_file_with_a_reason(opened, header):
    collection = opened(*sample("a"), member("pax", header, type=b"x"), member("x.jpg", b"x"), *sample("b"))
    assert ids(collection)[0] == "00000/a"
    assert len(reasons(collection)) == 1
    assert_restarts_anywhere(collection)


def test_too_large_image_and_metadata_are_refused(opened, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGE_BYTES", 1000)
    monkeypatch.setattr(limits, "MAX_IMAGE_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_TEXT_BYTES", 50)
    members = [*sample("a"), member("b.jpg", bytes(1001)), *sample("c", url="x" * 100)]
    found = reasons(opened(*members, columns=("url",)))
    assert "1001 bytes, more than the limit of 1000" in found["00000/b"]
    assert "its .json has" in found["00000/c"]


@pytest.mark.parametrize("metadata", [b"{", b"[1]", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"])
def test_metadata_that_is_no_object_is_refused_only_where_it_is_wanted(opened, metadata):
    members = [*sample("a", url="x"), member("b.jpg", picture()), member("b.json", metadata)]
    assert "its JSON" in reasons(opened(*members, columns=("url",)))["00000/b"]
    assert len(ids(opened(*members))) == 2


def test_half_a_character_in_metadata_can_be_written(opened):
    ((_, _, columns),) = entries(
        opened(member("a.jpg", picture()), member("a.json", b'{"url": "\\ud800x"}'), columns=("url",))
    )
    assert columns == {"url": "?x"}


def test_second_sample_with_a_key_is_refused_by_name(opened):
    collection = opened(*sample("a"), *sample("b"), *sample("a", 1), member("b.jpg", picture()))
    assert ids(collection) == ["00000/a", "00000/b"]
    assert set(reasons(collection)) == {"00000/a", "00000/b"}
    assert [type(entry) for entry in entries(collection)] == [Item, Item, Refused, Refused]
    assert_restarts_anywhere(collection)


def test_sample_without_an_image_or_with_several_is_refused(opened):
    found = reasons(opened(*sample("a")[1:], member("b.jpg", picture()), member("b.png", picture())))
    assert found == {
        "00000/a": "the sample has nothing to take as the image in .txt, .json",
        "00000/b": "the sample has several members to take as the image in .jpg, .png",
    }


def test_name_that_is_not_unicode_is_refused_and_shown(opened):
    broken = member("a.jpg", picture())
    header = bytearray(broken[0].tobuf())
    header[0:1] = b"\xff"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    path = opened(*sample("b"))._files[0].path
    path.write_bytes(bytes(header) + broken[1] + bytes(-len(broken[1]) % 512) + path.read_bytes())
    assert reasons(open_images(path)) == {"00000/\\udcff.jpg": "its name is not UTF-8"}
    assert ids(open_images(path)) == ["00000/b"]


@pytest.mark.parametrize("kept", [1, 100, 511, 600, 1500, 3000])
def test_cut_tar_says_so_in_its_last_entry(tmp_path, kept):
    whole = tar_bytes([*sample("a"), *sample("b")])
    (tmp_path / "cut.tar").write_bytes(whole[:kept])
    collection = open_images(tmp_path / "cut.tar")
    last = entries(collection)[-1]
    assert isinstance(last, Refused)
    assert "the tar is cut" in last.reason
    assert_restarts_anywhere(collection)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (b"<html>not found</html>" * 100, "no header of a tar at byte 0")]
)
def test_file_that_is_no_tar_is_one_refusal(tmp_path, content, reason):
    write_tree(tmp_path, {"00.tar": content, "01.tar": tar_bytes(sample("a"))})
    collection = open_images(tmp_path)
    assert ids(collection) == ["01/a"]
    ((_, why),) = reasons(collection).items()
    assert reason in why


def test_joined_tars_are_not_passed_over(tmp_path):
    (tmp_path / "joined.tar").write_bytes(tar_bytes(sample("a")) + tar_bytes(sample("b")))
    collection = open_images(tmp_path / "joined.tar")
    assert ids(collection) == ["joined/a"]
    assert "more follows behind the end" in next(iter(reasons(collection).values()))


def test_tar_as_the_tar_command_pads_it_is_read(tmp_path):
    with tarfile.open(tmp_path / "made.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "all"}) as tar:
        folder = tarfile.TarInfo("pictures/")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        info, content = member("pictures/a.jpg", picture())
        info.mtime = 1.5  # a fraction makes an extended header
        tar.addfile(info, io.BytesIO(content))
    assert ids(open_images(tmp_path / "made.tar")) == ["made/pictures/a"]


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_compressed_tar_is_not_unpacked(tmp_path, magic):
    (tmp_path / "a.tar").write_bytes(magic + bytes(1000))
    with pytest.raises(CollectionError, match=r"is compressed.*unpack it with"):
        open_images(tmp_path / "a.tar")


def test_column_that_no_sample_has_is_named_with_those_there_are(opened):
    with pytest.raises(CollectionError, match="has no column ulr; it has key, txt, url"):
        opened(*sample("a", url="x"), columns=("ulr",))


def test_tar_is_not_looked_through_again_until_it_is_written(tmp_path, monkeypatch):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(sample("a")))
    known = {record.name: record for record in open_images(path).records}
    monkeypatch.setattr(module.TarFile, "look_through", lambda self: pytest.fail("it was looked through"))
    assert open_images(path, known=known).size == 1
    monkeypatch.undo()
    path.write_bytes(tar_bytes([*sample("a"), *sample("b")]))
    assert open_images(path, known=known).size == 2


def test_digest_follows_contents_and_not_copies(tmp_path):
    write_tree(tmp_path, {"one/a.tar": tar_bytes(sample("a"))})
    write_tree(tmp_path, {"two/a.tar": tar_bytes(sample("a")), "three/a.tar": tar_bytes(sample("a", text="a dog!"))})
    one, two, three = (open_images(tmp_path / name / "a.tar").digest for name in ("one", "two", "three"))
    assert one == two != three


def test_records_that_changed_under_the_reader_are_an_error(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(sample("a")))
    known = open_images(path).records[0]
    lie = FileRecord(known.name, known.stamp, known.contents.__class__(3, known.contents.digest))
    with pytest.raises(CollectionError, match="has changed while it was read"):
        entries(open_images(path, known={known.name: lie}))


def test_limits_are_those_of_a_camera():
    assert limits.MAX_IMAGE_BYTES > 200e6
