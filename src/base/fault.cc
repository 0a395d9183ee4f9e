#include "base/fault.h"

namespace plumeria {

#ifdef PLUMERIA_PLANTED_FAULTS
namespace {
Fault current = Fault::none;
}  // namespace

void plant(Fault fault) { current = fault; }
bool planted(Fault fault) { return current == fault; }
#endif

}  // namespace plumeria
