// What the steps of a repair share. Borrows everything.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/task.h"
#include "base/world.h"
#include "check/account.h"
#include "check/block_writer.h"
#include "check/inventory.h"
#include "check/observer.h"
#include "check/store_reader.h"

namespace plumeria::check {

struct RepairParts {
  World world;
  StoreReader& reader;  // of what is in place: what was written must be settled before
  BlockWriter& writer;
  Inventory& inventory;
  Account& account;
  Observer* observer = nullptr;
  std::uint64_t hash_seed = 0;

  Task<Result<Bytes>> read(format::BlockId id) {
    std::vector<format::BlockId> ids{id};
    CO_TRY(std::vector<Bytes> blocks, co_await reader.blocks(std::move(ids)));
    co_return std::move(blocks.front());
  }
  // Above what was ever there, as far as anybody can tell.
  Task<Result<std::uint64_t>> next_version(format::Unit unit, format::BlockId id) {
    CO_TRY(const Bytes block, co_await read(id));
    co_return std::max(claimed_version(block), inventory.floor_of(unit, id.number)) + 1;
  }
  void show_progress(std::string_view phase, std::uint64_t done) {
    if (observer != nullptr) observer->progress(phase, done);
  }
  Status go_on() const {
    if (observer != nullptr && observer->wants_end()) return fail(Errc::interrupted);
    return {};
  }
};

}  // namespace plumeria::check
