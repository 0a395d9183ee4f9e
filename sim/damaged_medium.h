// For tests: a store with one of everything whose blocks are then damaged, and what applications
// see on it.
#pragma once

#include <absl/strings/str_cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/checksum.h"
#include "format/block.h"
#include "format/layout.h"
#include "format/log_chunk.h"
#include "sim/cluster.h"
#include "wal/log_reader.h"

namespace plumeria::sim::damaged_medium {

inline constexpr Duration limit = 300s;
inline constexpr std::uint64_t tail_files = 8;  // each is a chunk of the log of its own
inline constexpr int names_in_index = 600;

inline std::string tail_name(std::uint64_t i) { return absl::StrCat("tail", i); }
inline std::string long_name(int i) { return absl::StrCat("d/", std::string(200, 'n'), i); }

inline Bytes content(std::size_t size, std::uint64_t seed) {
  Bytes bytes(size);
  RandomStream random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.next() | 1);
  return bytes;
}

inline Task<Status> write_file(Kernel* kernel, std::string path, std::size_t size, bool keep_open) {
  OpenFlags flags;
  flags.writable = flags.create = true;
  CO_TRY(const Descriptor file, co_await kernel->open(path, flags, 0644));
  if (size > 0) {
    CO_TRY(const std::uint64_t written, co_await kernel->pwrite(file, 0, content(size, size)));
    CHECK(written == size);
  }
  if (!keep_open) CO_TRY_STATUS(co_await kernel->close(file));
  co_return Status{};
}

// A file without a name that is open.
inline Task<Status> make_orphan(Kernel* kernel) {
  CO_TRY_STATUS(co_await write_file(kernel, "orphan", 5000, true));
  CO_TRY_STATUS(co_await kernel->unlink("orphan"));
  co_return co_await kernel->sync();
}

// One of each kind of file, and a directory with an index.
inline Task<Status> make_tree(Kernel* kernel) {
  CO_TRY_STATUS(co_await kernel->mkdir("d", 0755));
  for (int i = 0; i < names_in_index; ++i) {
    CO_TRY_STATUS(co_await write_file(kernel, long_name(i), i == 7 ? 100 : 0, false));
  }
  CO_TRY_STATUS(co_await kernel->mkdir("plain", 0755));
  CO_TRY_STATUS(co_await write_file(kernel, "plain/a", 10, false));
  CO_TRY_STATUS(co_await write_file(kernel, "inline", 1000, false));
  CO_TRY_STATUS(co_await write_file(kernel, "small", 20'000, false));
  CO_TRY_STATUS(co_await write_file(kernel, "large", 300'000, false));
  CO_TRY_STATUS(co_await kernel->symlink("inline", "link"));
  CO_TRY_STATUS(co_await kernel->link("inline", "plain/hard"));
  for (const char* path : {"inline", "plain", "large"}) {
    CO_TRY_STATUS(co_await kernel->setxattr(path, "user.x", content(700, 7), 0));
  }
  co_return co_await make_orphan(kernel);
}

inline Task<Status> make_tail_file(Kernel* kernel, std::uint64_t i) {
  CO_TRY_STATUS(co_await write_file(kernel, tail_name(i), 50 + i, false));
  co_return co_await kernel->sync();
}

// What an application sees, by path.
using View = std::map<std::string, std::string>;
inline constexpr const char* error_mark = "error: ";

inline std::string error_text(const Error& error) {
  return absl::StrCat(error_mark, error.message());
}

inline Task<std::string> look_at_file(Kernel* kernel, std::string path) {
  auto opened = co_await kernel->open(path, OpenFlags{}, 0);
  if (!opened) {
    if (opened.error().code == Errc::no_entry) co_return "absent";
    co_return error_text(opened.error());
  }
  auto attributes = co_await kernel->fstat(*opened);
  auto bytes = co_await kernel->pread(*opened, 0, 400'000);
  const Status closed = co_await kernel->close(*opened);
  if (!attributes) co_return error_text(attributes.error());
  if (!bytes) co_return error_text(bytes.error());
  if (!closed) co_return error_text(closed.error());
  co_return absl::StrCat("mode ", absl::Hex(attributes->mode), " links ", attributes->links,
                         " size ", attributes->size, " read ", bytes->size(), " ",
                         checksum(*bytes));
}

inline Task<std::string> look_at_directory(Kernel* kernel, std::string path) {
  auto names = co_await kernel->list(path);
  if (!names) co_return error_text(names.error());
  std::set<std::string> sorted;
  for (const ListedName& name : *names) {
    if (!sorted.insert(absl::StrCat(name.name, " ", name.type)).second) co_return "a name twice";
  }
  std::string text;
  for (const std::string& name : sorted) absl::StrAppend(&text, name, "\n");
  co_return text;
}

inline Task<std::string> look_at_link(Kernel* kernel, std::string path) {
  auto target = co_await kernel->readlink(path);
  co_return target ? *target : error_text(target.error());
}

inline Task<View> look(Kernel* kernel) {
  View view;
  for (std::string path : {"", "d", "plain"}) {
    view[absl::StrCat("list of ", path)] = co_await look_at_directory(kernel, path);
  }
  std::vector<std::string> files{"plain/a", "inline", "small", "large", "plain/hard"};
  for (int i = 7; i < names_in_index; i += 37) files.push_back(long_name(i));
  for (std::uint64_t i = 0; i < tail_files; ++i) files.push_back(tail_name(i));
  for (const std::string& path : files) view[path] = co_await look_at_file(kernel, path);
  view["link"] = co_await look_at_link(kernel, "link");
  for (std::string path : {"inline", "plain", "large"}) {
    auto value = co_await kernel->getxattr(path, "user.x");
    view[absl::StrCat("attribute of ", path)] =
        !value ? error_text(value.error()) : absl::StrCat(*value ? checksum(**value) : 0);
  }
  co_return view;
}

// Changes beside what look() sees; the errors that came.
inline Task<std::vector<Error>> change(Kernel* kernel) {
  std::vector<Error> errors;
  const auto note = [&errors](const Status& status) {
    if (!status) errors.push_back(status.error());
  };
  note(co_await kernel->mkdir("plain/new", 0755));
  if (!errors.empty()) co_return errors;
  for (const std::size_t size : {0, 100, 5000, 100'000}) {
    for (int i = 0; i < 3; ++i) {
      const std::string path = absl::StrCat("plain/new/", size, "-", i);
      note(co_await write_file(kernel, path, size, false));
    }
  }
  note(co_await kernel->rename("plain/new/100-1", "plain/new/renamed", 0));
  note(co_await kernel->unlink("plain/new/5000-1"));
  note(co_await kernel->sync());
  co_return errors;
}
inline Task<std::vector<Error>> change_back(Kernel* kernel) {
  std::vector<Error> errors;
  auto names = co_await kernel->list("plain/new");
  if (!names) {
    if (names.error().code != Errc::no_entry) errors.push_back(names.error());
    co_return errors;
  }
  for (const ListedName& name : *names) {
    const Status gone = co_await kernel->unlink(absl::StrCat("plain/new/", name.name));
    if (!gone) errors.push_back(gone.error());
  }
  const Status gone = co_await kernel->rmdir("plain/new");
  if (!gone) errors.push_back(gone.error());
  co_return errors;
}

inline ClusterOptions options(std::uint64_t seed) {
  ClusterOptions options;
  options.seed = seed;
  options.embedded = true;
  options.mounts = 1;
  return options;
}

inline const std::map<format::BlockType, std::string> kind_names{
    {format::BlockType::superblock, "superblock"},
    {format::BlockType::piece, "piece"},
    {format::BlockType::inode, "inode"},
    {format::BlockType::directory_leaf, "directory leaf"},
    {format::BlockType::directory_inner, "directory inner block"},
    {format::BlockType::orphan_list, "orphan list"},
    {format::BlockType::log_header, "log header"},
    {format::BlockType::xattrs, "extended attributes"}};

// The medium as kill -9 of the mount leaves it (the log has records, the orphan list an entry), or
// as it is after a clean end; and what is seen on it.
struct Medium {
  explicit Medium(bool clean) : cluster(options(1)) {
    cluster.start();
    Kernel* kernel = &cluster.kernel(0);
    expect(cluster.run(0, make_tree(kernel)));
    // After a replay the blocks are in place, and the next life has but its own records.
    cluster.crash_mount(0);
    cluster.start();
    kernel = &cluster.kernel(0);
    expect(cluster.run(0, make_orphan(kernel)));
    views.push_back(cluster.run(0, look(kernel)));
    for (std::uint64_t i = 0; i < tail_files; ++i) {
      expect(cluster.run(0, make_tail_file(kernel, i)));
      views.push_back(cluster.run(0, look(kernel)));
    }
    cluster.simulation().run_for(50ms);  // The log vouches for its end.
    cluster.crash_mount(0);
    if (clean) {
      cluster.start();
      expect(cluster.run(0, cluster.kernel(0).sync()));
      expect(cluster.stop_mount(0));
    }
    EXPECT_THAT(cluster.check(), testing::IsEmpty());
    find_blocks();
  }
  static void expect(const Status& status) { EXPECT_TRUE(status) << status.error().message(); }

  void find_blocks() {
    SimDisk& disk = cluster.disk();
    for (const disk::Segment segment : disk.segments()) {
      const auto number = static_cast<std::uint64_t>(segment);
      const bool is_log =
          number >= format::log_segment_base && number < format::orphan_segment_base;
      for (const std::uint64_t block : disk.blocks(segment)) {
        const format::BlockId id{number, block};
        const Bytes bytes = disk.peek({segment, id.offset()}, format::block_size);
        if (is_log && block >= format::log_header_blocks) {
          if (is_live(number, id)) kinds["log chunk"].push_back(id);
        } else if (load<std::uint32_t>(bytes.data()) == format::block_magic &&
                   number != format::small_segment && !format::is_data_segment(number)) {
          kinds[kind_names.at(format::type_of(bytes))].push_back(id);
        }
      }
    }
  }

  // Whether the log's owner has written there since the header that counts.
  bool is_live(std::uint64_t segment, format::BlockId id) {
    const auto slot = static_cast<std::uint32_t>(segment - format::log_segment_base);
    const format::LogHeader header =
        cluster.simulation()
            .run(cluster.inspector(), wal::read_log_header(cluster.inspection(), slot))
            ->header;
    const std::uint64_t first = (format::log_ring_start + header.start) / format::block_size;
    return header.state == format::LogState::in_use && id.number >= first;
  }

  Cluster cluster;
  std::vector<View> views;  // after 0, 1, … of the tail's files
  std::map<std::string, std::vector<format::BlockId>> kinds;
};

}  // namespace plumeria::sim::damaged_medium
