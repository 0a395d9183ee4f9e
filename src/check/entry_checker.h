// Checks the entries of directories and the blocks of their indexes, and tells the census of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/task.h"
#include "check/census.h"
#include "check/directory_walk.h"
#include "check/findings.h"
#include "check/store_reader.h"
#include "format/directory.h"

namespace plumeria::check {

// A name that a directory can have.
bool is_possible_name(std::string_view name);

class EntryChecker final : public DirectoryVisitor {
 public:
  EntryChecker(StoreReader& reader, Census& census, Findings& findings, std::uint64_t hash_seed)
      : reader_(reader), census_(census), findings_(findings), hash_seed_(hash_seed) {}

  // Errors: those of the disk.
  Task<Status> check(DirectoryPlace directory);

  bool use_block(std::uint64_t block) override {
    return census_.use_directory_block(block, directory_);
  }
  void fault(std::string what) override { findings_.problem(std::move(what)); }
  void list(ListPlace place, ByteView area) override;

 private:
  void check_entry(const std::string& where, const format::EntryView& entry);

  StoreReader& reader_;
  Census& census_;
  Findings& findings_;
  const std::uint64_t hash_seed_;
  std::uint64_t directory_ = 0;
  std::uint64_t entries_ = 0;
};

}  // namespace plumeria::check
