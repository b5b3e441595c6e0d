"""Digests of data sets without new flags: a change here changes every published result."""

import shutil

import pytest

from dataloader import load_dataset

VALID = {"validate": True}
# {data set: {flags: digest}}
DIGESTS = {
    "100k": [
        ({}, "e52567e8ecad22181b959c901cffd076f7121be50b535cb68e5aa9bf87bcfd32"),
        (VALID, "283a23e63af6f5c736b485007a8ff6f6cf4a7607a485c0ae285242f0de09708c"),
    ],
    "1M": [
        ({}, "4190af4ba21a2c9a90a3f6ffa1c94c8c9dfd5f74cffef205d243fb8e93fe091f"),
        (VALID, "309126b86968be0e144584a72282fa11863200b349ac9c76c840e707b903e29f"),
    ],
    "Gowalla": [
        ({}, "76c20d2ab066ecf6bfc8bc24385cc8f51ca99e3655be59d449fe2955cb67bf64"),
        (VALID, "68bac8d4fb0fe4c40915f4ce2313158cc0769972cbf4b587dbc1bbff9e1c7a70"),
    ],
    "Yelp2018": [
        ({}, "3f05304f79545cdc4d579bc8bfc7b62cf2a64023c8eda1f862b11209350302c4"),
        (VALID, "fb8062b590c73f44761833e0619cfbe2cd4ae73a76714c7a0c44fd8353ca4108"),
    ],
    "ml-100k": [
        ({}, "82bcc866631336e05e3d146bc51c89c997cc741ef2c66c9437ba84beed3aaf15"),
        ({"ratings": True}, "242af36120d62428583a6229ae616e287ac576a0081abd2510add03c51e2847e"),
        (
            {"ratings": True, "validate": True, "valid_ratio": 0.2, "split_seed": 3},
            "445162a87b73bfb56ee5cc5a3cdcf94fa31e42dfe22584fe8530a70d3ffe6778",
        ),
        (
            {"validate": True, "test_ratio": 0.3, "split_seed": 5},
            "b978519e2bf0034bc0de95bce673d3ff5b2f995eeb54a1fd866d31ad0d5d8c00",
        ),
        (
            {"ratings": True, "fold": 2},
            "70fb2a743308182f89e8938c7e772f0f46d07967ba0702472c1d9341465c0d3f",
        ),
    ],
    "ml-1m": [
        ({}, "ac2d932c17ab72a2ec21b4f1d9d8c391565d728686b9df98c551d832074a4e56"),
        ({"ratings": True}, "8841826b455eebffbf2c7489b729b20364c7d8f3796be621ef7bbfe8210b7c00"),
        (
            {"ratings": True, "validate": True, "valid_ratio": 0.2, "split_seed": 3},
            "8ffe323351d25657d7a8a34215877a0e0cecff5fe50caedd27c1726d5a121f6b",
        ),
        (
            {"validate": True, "test_ratio": 0.3, "split_seed": 5},
            "8abf752f000bb3b393f5fad11b4c13a300e4137dc50792b02bd6714166201278",
        ),
    ],
}
TUNED = {
    "ml-100k": "6a0d420a99ccc607421701c5b026a6bb67e953be6c401ec31f5b1093df2ccc0d",
    "ml-1m": "3d5be6bfb5e25af9717b4a0c8ddc6618c69a5d41303055c8bc64c43a29fb26d2",
}


def copied(real_data, tmp_path, name):
    """A folder of data sets with a copy of one, where a parsed copy can be kept."""
    shutil.copytree(real_data / name, tmp_path / name, copy_function=shutil.copyfile)
    (tmp_path / name).chmod(0o755)
    return tmp_path


@pytest.mark.parametrize("name", DIGESTS)
def test_digests(real_data, tmp_path, name):
    folder = copied(real_data, tmp_path, name)
    for _ in range(2):  # from the files, then from the parsed copy
        for flags, digest in DIGESTS[name]:
            assert load_dataset(name, folder, download=False, **flags).digest == digest, flags


@pytest.mark.parametrize("name", TUNED)
def test_digests_of_moved_validation_splits(real_data, tmp_path, name):
    folder = copied(real_data, tmp_path, name)
    data = load_dataset(name, folder, download=False, validate=True, valid_ratio=0.25)
    assert data.with_tuning_split(0.9, 1).digest == TUNED[name]
    assert data.with_valid_in_train().digest == DIGESTS[name][0][1]
