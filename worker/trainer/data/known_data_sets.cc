#include "worker/trainer/data/known_data_sets.h"

#include <utility>

namespace ham::trainer {
namespace {

// Sources of digests: the publishers' pages (CIFAR archives, MNIST and Fashion-MNIST .gz files), torchvision's tables
// (SVHN, Imagenette), our own unpacking of files with those digests (the rest).

constexpr AugmentationOptions kCropAndFlip{.crop_padding = 4, .flip = true};

OfficialSplit IdxSplit(const std::string& prefix, const std::string& images_md5, const std::string& labels_md5,
                       std::vector<int64_t> class_rows) {
  return {{{prefix + "-images-idx3-ubyte", images_md5}, {prefix + "-labels-idx1-ubyte", labels_md5}},
          std::move(class_rows)};
}

std::vector<int64_t> EachClass(size_t classes, int64_t rows) { return std::vector<int64_t>(classes, rows); }

KnownDataSet Mnist() {
  const std::string mirror = "https://ossci-datasets.s3.amazonaws.com/mnist/";
  return {"mnist",
          DataFormat::kIdx,
          1,
          28,
          28,
          {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"},
          IdxSplit("train", "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624",
                   {5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949}),
          IdxSplit("t10k", "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637",
                   {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009}),
          {{0.1307}, {0.3081}},
          {},
          {{mirror + "train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"},
           {mirror + "train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"},
           {mirror + "t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"},
           {mirror + "t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"}}};
}

KnownDataSet FashionMnist() {
  const std::string mirror = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/";
  return {
      "fashion-mnist",
      DataFormat::kIdx,
      1,
      28,
      28,
      {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"},
      IdxSplit("train", "f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9", EachClass(10, 6000)),
      IdxSplit("t10k", "8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965", EachClass(10, 1000)),
      {{0.2860}, {0.3530}},
      {},
      {{mirror + "train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"},
       {mirror + "train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"},
       {mirror + "t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"},
       {mirror + "t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"}}};
}

KnownDataSet Cifar10() {
  return {"cifar-10",
          DataFormat::kCifar10Binary,
          3,
          32,
          32,
          {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"},
          {{{"data_batch_1.bin", "5dd7e06a14cb22eb9f671a540d1b7c25"},
            {"data_batch_2.bin", "5ea93a67294ea407fff1d09f752e9692"},
            {"data_batch_3.bin", "942cd6a4bcdd0dd3c604fbe906cb4421"},
            {"data_batch_4.bin", "ae636b3ba5c66a11e91e8cb52e771fcb"},
            {"data_batch_5.bin", "53f37980c15c3d472c316c40844f3f0d"}},
           EachClass(10, 5000)},
          {{{"test_batch.bin", "803d5f7f4d78ea53de84dbe85f74fb6d"}}, EachClass(10, 1000)},
          {{0.4914, 0.4822, 0.4465}, {0.2470, 0.2435, 0.2616}},
          kCropAndFlip,
          {{"https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
            "cifar-10-batches-bin"}}};
}

KnownDataSet Cifar100() {
  return {"cifar-100",
          DataFormat::kCifar100Binary,
          3,
          32,
          32,
          {"apple",      "aquarium_fish", "baby",         "bear",       "beaver",      "bed",         "bee",
           "beetle",     "bicycle",       "bottle",       "bowl",       "boy",         "bridge",      "bus",
           "butterfly",  "camel",         "can",          "castle",     "caterpillar", "cattle",      "chair",
           "chimpanzee", "clock",         "cloud",        "cockroach",  "couch",       "crab",        "crocodile",
           "cup",        "dinosaur",      "dolphin",      "elephant",   "flatfish",    "forest",      "fox",
           "girl",       "hamster",       "house",        "kangaroo",   "keyboard",    "lamp",        "lawn_mower",
           "leopard",    "lion",          "lizard",       "lobster",    "man",         "maple_tree",  "motorcycle",
           "mountain",   "mouse",         "mushroom",     "oak_tree",   "orange",      "orchid",      "otter",
           "palm_tree",  "pear",          "pickup_truck", "pine_tree",  "plain",       "plate",       "poppy",
           "porcupine",  "possum",        "rabbit",       "raccoon",    "ray",         "road",        "rocket",
           "rose",       "sea",           "seal",         "shark",      "shrew",       "skunk",       "skyscraper",
           "snail",      "snake",         "spider",       "squirrel",   "streetcar",   "sunflower",   "sweet_pepper",
           "table",      "tank",          "telephone",    "television", "tiger",       "tractor",     "train",
           "trout",      "tulip",         "turtle",       "wardrobe",   "whale",       "willow_tree", "wolf",
           "woman",      "worm"},
          {{{"train.bin", "6172c7755cfe09b2fe270c85cebc1b15"}}, EachClass(100, 500)},
          {{{"test.bin", "4499cfba6c016c1be1438163640a0898"}}, EachClass(100, 100)},
          {{0.5071, 0.4865, 0.4409}, {0.2673, 0.2564, 0.2762}},
          kCropAndFlip,
          {{"https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8",
            "cifar-100-binary"}}};
}

KnownDataSet Svhn() {
  const std::string home = "http://ufldl.stanford.edu/housenumbers/";
  const OfficialFile train{"train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"};
  const OfficialFile test{"test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"};
  return {"svhn",
          DataFormat::kMat5,
          3,
          32,
          32,
          {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"},
          {{train}, {4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659}},
          {{test}, {1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595}},
          {{0.4377, 0.4438, 0.4728}, {0.1980, 0.2010, 0.1970}},
          kCropAndFlip,  // HAM's published recipe flips digits too
          {{home + train.name, train.md5}, {home + test.name, test.md5}}};
}

KnownDataSet Imagenette() {
  return {"imagenette",
          DataFormat::kImageFolder,
          3,
          32,
          32,
          {"tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
           "gas pump", "golf ball", "parachute"},
          {{{"train", ""}}, {963, 955, 993, 858, 941, 956, 961, 931, 951, 960}},
          {{{"val", ""}}, {387, 395, 357, 386, 409, 394, 389, 419, 399, 390}},
          {{0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}},
          kCropAndFlip,
          {{"https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3",
            "imagenette2-320"}},
          {"n01440764", "n02102040", "n02979186", "n03000684", "n03028079", "n03394916", "n03417042", "n03425413",
           "n03445777", "n03888257"}};
}

}  // namespace

const std::vector<KnownDataSet>& KnownDataSets() {
  static const auto& known =
      *new std::vector<KnownDataSet>{Mnist(), FashionMnist(), Cifar10(), Cifar100(), Svhn(), Imagenette()};
  return known;
}

const KnownDataSet* FindDataSet(const std::string& name) {
  for (const KnownDataSet& set : KnownDataSets()) {
    if (set.name == name) return &set;
  }
  return nullptr;
}

const char* FormatName(DataFormat format) {
  switch (format) {
    case DataFormat::kIdx:
      return "IDX, plain or .gz";
    case DataFormat::kCifar10Binary:
      return "CIFAR-10 binary";
    case DataFormat::kCifar100Binary:
      return "CIFAR-100 binary, fine labels";
    case DataFormat::kMat5:
      return "MAT 5";
    case DataFormat::kImageFolder:
      return "folder of JPEG files a class";
  }
  return "";
}

}  // namespace ham::trainer
