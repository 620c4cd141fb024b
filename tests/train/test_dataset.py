# SPDX-License-Identifier: GPL-3.0-or-later
"""Training images: the split, crops that depend on seed and number alone, shards, and files that are no images."""

import tarfile
import threading

import numpy as np
import pytest
import torch
from skimage import data

from diffjscc.images import read_image, write_image
from diffjscc.train.dataset import Prefetch, RandomCrops, Unreadable, find_files, fingerprint, read_held_out, spare_threads, split


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder tree with 45 images of 64×64."""
    folder = tmp_path_factory.mktemp("many")
    for i in range(45):
        write_image(folder / f"{i % 3}" / f"{i:02d}.png", data.astronaut()[8 * i : 8 * i + 64, 64:128])
    return folder


def crops_of(folder, size=48, seed=1, **options):
    files = find_files([folder])
    return RandomCrops(split(files)[0], size, seed, Unreadable(len(files)), **options)


def test_every_40th_image_by_name_is_held_out(many):
    training, held_out = split(find_files([many]))
    assert [file.name for file in held_out] == ["0/00.png", "2/32.png"]
    assert len(training) == 43 and not {f.name for f in training} & {f.name for f in held_out}


def test_crops_depend_on_seed_and_number_alone(many):
    crops = crops_of(many)
    images, indices = crops(range(20, 24))
    assert images.shape == (4, 3, 48, 48) and images.min() >= 0 and images.max() <= 1
    again, same = crops_of(many, cache_bytes=0)([23, 20])
    assert torch.equal(again, images[[3, 0]]) and same == [indices[3], indices[0]]
    assert not torch.equal(crops_of(many, seed=2)([20])[0][0], images[0])
    # The crop is a part of the image of its index, or of its mirror image.
    pixels = read_image(crops.files[indices[0]].path)
    wanted = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (48, 48, 3))[:, :, 0]
    assert (windows == wanted).all((2, 3, 4)).any() or (windows == wanted[:, ::-1]).all((2, 3, 4)).any()


def test_several_threads_get_the_same_crops(many):
    whole, _ = crops_of(many)(range(40))
    crops, parts = crops_of(many, cache_bytes=50_000), {}
    threads = [threading.Thread(target=lambda i=i: parts.update({i: crops(range(10 * i, 10 * i + 10))[0]})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([parts[i] for i in range(4)]), whole)


def test_shards_give_the_crops_of_their_images_in_a_folder(many, tmp_path):
    """As WebDataset writes them: members of one image each, with other files beside them."""
    with tarfile.open(tmp_path / "train-000000.tar", "w") as shard:
        for path in sorted(many.rglob("*.png")):
            name = path.relative_to(many).as_posix()
            shard.add(path, name)
            (tmp_path / "caption.json").write_text("{}")
            shard.add(tmp_path / "caption.json", name.replace(".png", ".json"))
    (tmp_path / "caption.json").unlink()
    files, sharded = find_files([many]), find_files([tmp_path])
    assert [file.name for file in sharded] == [f"train-000000.tar/{file.name}" for file in files]
    for one, other in zip(crops_of(many)(range(30)), crops_of(tmp_path)(range(30))):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))
    for one, other in zip(*(read_held_out(split(f)[1], 2, Unreadable(45)) for f in (files, sharded))):
        assert torch.equal(one, other)


def test_a_shard_that_was_cut_short_is_refused(many, tmp_path):
    whole = tmp_path / "a.tar"
    with tarfile.open(whole, "w") as shard:
        for path in sorted(many.rglob("*.png"))[:4]:
            shard.add(path, path.name)
    content = whole.read_bytes()
    last = find_files([tmp_path])[-1]
    whole.write_bytes(content[: last.offset + last.size // 2])
    with pytest.raises(ValueError, match=r"a\.tar: .*damaged shard"):
        find_files([tmp_path])
    whole.write_bytes(b"no shard at all" * 100)
    with pytest.raises(ValueError, match=r"a\.tar: .*damaged shard"):
        find_files([tmp_path])


def test_a_corrupt_file_in_a_thousand_is_passed_over_and_listed(tmp_path, many, caplog):
    for i in range(1000):
        target = tmp_path / f"{i:04d}.png"
        target.symlink_to(sorted(many.rglob("*.png"))[i % 45])
    (tmp_path / "0500.png").unlink()
    (tmp_path / "0500.png").write_bytes((tmp_path / "0501.png").read_bytes()[:500])
    crops = crops_of(tmp_path)
    index = [file.name for file in crops.files].index("0500.png")
    drawn = [i for number in range(3000) for i in crops([number])[1]]
    assert index not in drawn and len(set(drawn)) > 900
    assert list(crops.unreadable) == ["0500.png"] and "0500.png: damaged or cut short" in crops.unreadable["0500.png"]
    assert len(caplog.records) == 1


def test_a_corrupt_image_among_those_held_out_is_replaced_by_the_next(tmp_path, many):
    for i in range(81):
        (tmp_path / f"{i:02d}.png").symlink_to(sorted(many.rglob("*.png"))[i % 45])
    (tmp_path / "40.png").unlink()
    (tmp_path / "40.png").write_text("no image")
    unreadable = Unreadable(81)
    assert len(read_held_out(split(find_files([tmp_path]))[1], 3, unreadable)) == 2
    assert list(unreadable) == ["40.png"]


def test_too_many_corrupt_files_are_refused(tmp_path, many):
    for i in range(40):
        (tmp_path / f"{i:02d}.png").symlink_to(sorted(many.rglob("*.png"))[i])
    for i in range(10, 20):
        (tmp_path / f"{i:02d}.png").unlink()
        (tmp_path / f"{i:02d}.png").write_text("no image")
    with pytest.raises(ValueError, match="5 of 40 images cannot be read, the last one: .*not an image"):
        crops_of(tmp_path)(range(300))


def test_images_smaller_than_a_crop_are_passed_over_and_all_of_them_refused(tmp_path, images):
    for path in images.iterdir():
        (tmp_path / path.name).symlink_to(path)
    write_image(tmp_path / "small.png", np.zeros((40, 40, 3), np.uint8))
    drawn, indices = crops_of(tmp_path, 64)(range(30))
    assert drawn.shape == (30, 3, 64, 64) and len(set(indices)) == 2
    crops = crops_of(images, 512)
    # Each call says so: batches are made ahead, by several threads.
    for number in range(3):
        with pytest.raises(ValueError, match="no training image has a crop of 512 pixels: use a smaller crop"):
            crops([number])


def test_folders_without_images_are_refused(tmp_path, images):
    with pytest.raises(ValueError, match="absent: no such folder of images"):
        find_files([tmp_path / "absent"])
    with pytest.raises(ValueError, match="no images and no shards in this folder"):
        find_files([images, tmp_path])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes((images / "coffee.png").read_bytes())
    with pytest.raises(ValueError, match="no images and no shards in this folder"):
        find_files([tmp_path])
    (tmp_path / "one.png").write_bytes((images / "coffee.png").read_bytes())
    with pytest.raises(ValueError, match=r"one\.png: training needs at least two images"):
        split(find_files([tmp_path]))


def test_two_folders_may_hold_images_of_the_same_names(images):
    files = find_files([images, images])
    assert len({file.name for file in files}) == 6
    assert fingerprint(files) != fingerprint(find_files([images]))


def test_the_fingerprint_tells_images_and_not_where_they_are(images, tmp_path):
    for path in images.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert fingerprint(find_files([tmp_path])) == fingerprint(find_files([images]))
    (tmp_path / "coffee.png").rename(tmp_path / "tea.png")
    assert fingerprint(find_files([tmp_path])) != fingerprint(find_files([images]))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_made_ahead_and_errors_arrive_where_they_belong(threads):
    def make(step):
        if step == 5:
            raise ValueError("step 5")
        made.append(step)
        return step * step

    made = []
    batches = Prefetch(make, 8, threads)
    assert [batches(step) for step in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError, match="step 5"):
        batches(5)
    batches.close()
    assert set(range(5)) <= set(made) <= {0, 1, 2, 3, 4, 6, 7}


def test_decoding_takes_the_cores_that_a_training_leaves_idle(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(12)))
    threads = torch.get_num_threads()
    for computing, spare in ((12, 0), (10, 2), (1, 8)):
        torch.set_num_threads(computing)
        assert spare_threads(torch.device("cpu")) == spare
    torch.set_num_threads(threads)
    assert spare_threads(torch.device("cuda")) == 6
