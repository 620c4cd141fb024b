/* -*- c++ -*- */
/* SPDX-License-Identifier: GPL-3.0-or-later */

/*!
 * A SoapySDR device without hardware: what one transmits, the other receives.
 *
 * driver=loopback,medium=FILE   FILE is a ring of samples in shared memory, made where it is
 *                               not there: transmitter and receiver may be two processes
 *
 * The transmitter is as fast as its sample rate; the receiver gets what was transmitted,
 * without loss, and zeros after 0.4 s without. Faults, as arguments:
 *
 * fault=busy      opening never returns
 * fault=refused   opening fails
 * fault=rate      setting the sample rate never returns
 * fault=error     the stream fails with an error, again and again
 * fault=silence   the stream times out, again and again
 * fault=hang      the stream's call never returns
 * fault=throw     the stream's call throws
 * after=N         the fault of a stream begins after N samples (default: 0)
 * rate_error=X    the device's sample rate is higher by this share
 * plug=FILE       the device can be found while FILE exists; a fault of the stream removes
 *                 it, and with it the device
 */

#include <SoapySDR/Device.hpp>
#include <SoapySDR/Errors.hpp>
#include <SoapySDR/Formats.hpp>
#include <SoapySDR/Registry.hpp>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <complex>
#include <stdexcept>
#include <thread>

namespace {

using sample = std::complex<float>;
using clock_type = std::chrono::steady_clock;

constexpr size_t CAPACITY = 1 << 22, MTU = 4096;

struct medium {
    std::atomic<uint64_t> written, read;
    sample ring[CAPACITY];
};

std::string argument(const SoapySDR::Kwargs& args, const std::string& key)
{
    const auto found = args.find(key);
    return found == args.end() ? "" : found->second;
}

[[noreturn]] void wait_for_ever()
{
    for (;;)
        std::this_thread::sleep_for(std::chrono::hours(1));
}

medium* open_medium(const std::string& path)
{
    const int file = open(path.c_str(), O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof(medium)) != 0)
        throw std::runtime_error("loopback: medium '" + path + "' cannot be opened");
    void* memory =
        mmap(nullptr, sizeof(medium), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED)
        throw std::runtime_error("loopback: no memory");
    return static_cast<medium*>(memory);
}

class loopback : public SoapySDR::Device
{
public:
    explicit loopback(const SoapySDR::Kwargs& args)
        : d_fault(argument(args, "fault")),
          d_plug(argument(args, "plug"))
    {
        if (d_fault == "busy")
            wait_for_ever();
        if (d_fault == "refused")
            throw std::runtime_error("loopback: device is busy");
        if (!d_plug.empty() && access(d_plug.c_str(), F_OK) != 0)
            throw std::runtime_error("loopback: no such device");
        if (const auto after = argument(args, "after"); !after.empty())
            d_after = std::stoull(after);
        if (const auto error = argument(args, "rate_error"); !error.empty())
            d_rate_error = std::stod(error);
        d_medium = open_medium(argument(args, "medium"));
    }

    ~loopback() override { munmap(d_medium, sizeof(medium)); }

    std::string getDriverKey() const override { return "loopback"; }
    std::string getHardwareKey() const override { return "loopback"; }
    size_t getNumChannels(const int) const override { return 1; }
    bool getFullDuplex(const int, const size_t) const override { return true; }

    std::vector<std::string> getStreamFormats(const int, const size_t) const override
    {
        return { SOAPY_SDR_CF32 };
    }
    std::string
    getNativeStreamFormat(const int, const size_t, double& full_scale) const override
    {
        full_scale = 1;
        return SOAPY_SDR_CF32;
    }

    std::vector<std::string> listAntennas(const int, const size_t) const override
    {
        return { "air" };
    }
    void setAntenna(const int, const size_t, const std::string&) override {}
    std::string getAntenna(const int, const size_t) const override { return "air"; }

    std::vector<std::string> listGains(const int, const size_t) const override
    {
        return { "G" };
    }
    void setGain(const int, const size_t, const std::string&, const double gain) override
    {
        d_gain = gain;
    }
    double getGain(const int, const size_t, const std::string&) const override
    {
        return d_gain;
    }
    SoapySDR::Range
    getGainRange(const int, const size_t, const std::string&) const override
    {
        return { 0, 60 };
    }

    std::vector<std::string> listFrequencies(const int, const size_t) const override
    {
        return { "RF" };
    }
    void setFrequency(const int,
                      const size_t,
                      const std::string&,
                      const double frequency,
                      const SoapySDR::Kwargs&) override
    {
        d_frequency = frequency;
    }
    double getFrequency(const int, const size_t, const std::string&) const override
    {
        return d_frequency;
    }
    SoapySDR::RangeList
    getFrequencyRange(const int, const size_t, const std::string&) const override
    {
        return { { 1e6, 6e9 } };
    }

    void setSampleRate(const int, const size_t, const double rate) override
    {
        if (d_fault == "rate")
            wait_for_ever();
        d_rate = rate * (1 + d_rate_error);
    }
    double getSampleRate(const int, const size_t) const override { return d_rate; }
    SoapySDR::RangeList getSampleRateRange(const int, const size_t) const override
    {
        return { { 1e3, 20e6 } };
    }
    void setBandwidth(const int, const size_t, const double bandwidth) override
    {
        d_bandwidth = bandwidth;
    }
    double getBandwidth(const int, const size_t) const override { return d_bandwidth; }
    SoapySDR::RangeList getBandwidthRange(const int, const size_t) const override
    {
        return { { 1e3, 20e6 } };
    }

    SoapySDR::Stream* setupStream(const int direction,
                                  const std::string& format,
                                  const std::vector<size_t>&,
                                  const SoapySDR::Kwargs&) override
    {
        if (format != SOAPY_SDR_CF32)
            throw std::runtime_error("loopback: only CF32");
        d_receives = direction == SOAPY_SDR_RX;
        return reinterpret_cast<SoapySDR::Stream*>(this);
    }
    void closeStream(SoapySDR::Stream*) override { deactivateStream(nullptr, 0, 0); }
    size_t getStreamMTU(SoapySDR::Stream*) const override { return MTU; }

    int
    activateStream(SoapySDR::Stream*, const int, const long long, const size_t) override
    {
        d_due = clock_type::now();
        return 0;
    }
    int deactivateStream(SoapySDR::Stream*, const int, const long long) override
    {
        return 0;
    }

    int readStream(SoapySDR::Stream*,
                   void* const* buffers,
                   const size_t count,
                   int& flags,
                   long long&,
                   const long timeout_us) override
    {
        flags = 0;
        int code;
        if (broken(timeout_us, code))
            return code;
        auto* out = static_cast<sample*>(buffers[0]);
        const size_t wanted = std::min(count, MTU);
        const auto span = duration(wanted);
        std::this_thread::sleep_until(std::min(d_due, clock_type::now() + span));
        // A transmitter that is late for its own burst would make a gap in it.
        for (int n = 0; n < 400 && d_flows && d_medium->written == d_medium->read; n++)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        const uint64_t begin = d_medium->read;
        const size_t there = std::min<uint64_t>(wanted, d_medium->written - begin);
        for (size_t n = 0; n < there; n++)
            out[n] = d_medium->ring[(begin + n) % CAPACITY];
        d_medium->read = begin + there;
        d_flows = there > 0;
        if (there == 0) {
            std::fill_n(out, wanted, sample(0));
            d_due = clock_type::now() + span;
        }
        d_done += there ? there : wanted;
        return there ? there : wanted;
    }

    int writeStream(SoapySDR::Stream*,
                    const void* const* buffers,
                    const size_t count,
                    int&,
                    const long long,
                    const long timeout_us) override
    {
        int code;
        if (broken(timeout_us, code))
            return code;
        const auto* in = static_cast<const sample*>(buffers[0]);
        const uint64_t begin = d_medium->written;
        const size_t room = CAPACITY - (begin - d_medium->read);
        const size_t taken = std::min({ count, MTU, room });
        if (taken == 0) {
            std::this_thread::sleep_for(std::chrono::microseconds(timeout_us));
            return SOAPY_SDR_TIMEOUT;
        }
        for (size_t n = 0; n < taken; n++)
            d_medium->ring[(begin + n) % CAPACITY] = in[n];
        d_medium->written = begin + taken;
        d_due = std::max(d_due, clock_type::now()) + duration(taken);
        std::this_thread::sleep_until(d_due);
        d_done += taken;
        return taken;
    }

private:
    clock_type::duration duration(size_t count) const
    {
        return std::chrono::duration_cast<clock_type::duration>(
            std::chrono::duration<double>(count / d_rate));
    }

    // Whether the stream does not work (any more), and what its call returns then.
    bool broken(const long timeout_us, int& code)
    {
        const bool streams = d_fault == "error" || d_fault == "silence" ||
                             d_fault == "hang" || d_fault == "throw";
        if (!streams || d_done < d_after)
            return false;
        if (!d_plug.empty())
            unlink(d_plug.c_str());
        if (d_fault == "hang")
            wait_for_ever();
        if (d_fault == "throw")
            throw std::runtime_error("loopback: device is gone");
        if (d_fault == "silence")
            std::this_thread::sleep_for(std::chrono::microseconds(timeout_us));
        code = d_fault == "silence" ? SOAPY_SDR_TIMEOUT : SOAPY_SDR_STREAM_ERROR;
        return true;
    }

    const std::string d_fault, d_plug;
    medium* d_medium = nullptr;
    double d_rate = 1e6, d_rate_error = 0, d_bandwidth = 0, d_frequency = 0, d_gain = 0;
    uint64_t d_after = 0, d_done = 0;
    bool d_receives = false, d_flows = false;
    clock_type::time_point d_due;
};

SoapySDR::KwargsList find_loopback(const SoapySDR::Kwargs& args)
{
    const auto plug = argument(args, "plug");
    if (!plug.empty() && access(plug.c_str(), F_OK) != 0)
        return {};
    SoapySDR::Kwargs found = args;
    found["driver"] = "loopback";
    found["label"] = "loopback";
    return { found };
}

SoapySDR::Device* make_loopback(const SoapySDR::Kwargs& args)
{
    return new loopback(args);
}

SoapySDR::Registry
    registered("loopback", &find_loopback, &make_loopback, SOAPY_SDR_ABI_VERSION);

} // namespace
