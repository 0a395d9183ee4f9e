#include "lock/program_name.h"

#include "base/bytes.h"
#include "base/check.h"
#include "base/checksum.h"

namespace plumeria::lock {

bool is_valid(const ProgramName& name) {
  return !name.name.empty() && name.name.size() <= program_name_max && !name.table.empty() &&
         name.table.size() <= table_name_max && name.table.find('\0') == std::string::npos;
}

LockName lock_of(const ProgramName& name) {
  CHECK(is_valid(name));
  std::string whole = name.table;
  whole += '\0';
  whole += name.name;
  return {LockClass::program, checksum(as_bytes(whole))};
}

}  // namespace plumeria::lock
