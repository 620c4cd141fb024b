/* SPDX-License-Identifier: GPL-3.0-or-later */

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;

#include <sys/syscall.h>
#include <unistd.h>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace {

// Ends the process if it is not cancelled in time. A driver that hangs while a device is opened keeps
// Python's lock: no thread in Python could do this.
class exit_timer
{
public:
    exit_timer(double seconds, std::string line, int status)
    {
        std::thread([state = d_state, seconds, line = std::move(line), status] {
            std::unique_lock lock(state->mutex);
            const auto span = std::chrono::duration<double>(seconds);
            if (state->changed.wait_for(lock, span, [&] { return state->cancelled; }))
                return;
            std::fflush(stdout);
            std::fprintf(stderr, "%s\n", line.c_str());
            std::fflush(stderr);
            _exit(status);
        }).detach();
    }

    void cancel()
    {
        const std::lock_guard lock(d_state->mutex);
        d_state->cancelled = true;
        d_state->changed.notify_all();
    }

private:
    struct shared {
        std::mutex mutex;
        std::condition_variable changed;
        bool cancelled = false;
    };
    const std::shared_ptr<shared> d_state = std::make_shared<shared>();
};

std::mutex failure_mutex;
std::optional<std::string> failure;

std::string what_failed()
{
    const auto error = std::current_exception();
    if (!error)
        return "a driver gave up";
    try {
        std::rethrow_exception(error);
    } catch (const std::exception& exception) {
        return exception.what();
    } catch (...) {
        return "a driver failed";
    }
}

// Instead of std::abort: an exception that leaves a driver's own thread ends that thread and not the
// process, which has images to finish.
[[noreturn]] void keep_failure()
{
    const auto text = what_failed();
    if (syscall(SYS_gettid) == getpid()) {
        std::fprintf(stderr, "%s\n", text.c_str());
        _exit(3);
    }
    {
        const std::lock_guard lock(failure_mutex);
        if (!failure)
            failure = text;
    }
    for (;;)
        std::this_thread::sleep_for(std::chrono::hours(1));
}

} // namespace

// Drivers' threads and calls that fail or hang in C++, where Python cannot help itself.
void bind_driver_threads(py::module& m)
{
    py::class_<exit_timer>(m, "exit_timer")
        .def(py::init<double, std::string, int>(),
             py::arg("seconds"),
             py::arg("line"),
             py::arg("status"),
             "After some seconds prints a line on standard error and ends the process, even "
             "where a driver keeps Python's lock.")
        .def("cancel", &exit_timer::cancel);

    m.def(
        "survive_driver_threads",
        [] { std::set_terminate(keep_failure); },
        "From now on an exception that leaves a thread of a driver ends only that thread.");

    m.def(
        "driver_failure",
        []() -> std::optional<std::string> {
            const std::lock_guard lock(failure_mutex);
            return failure;
        },
        "The message of the first exception that ended a driver's thread; None before.");
}
