// ONNX Runtime, loaded at run time: one program works with every version from the headers' on.
#include <dlfcn.h>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include "network.hpp"
#include "processor.hpp"

const char* const runtime_name = "onnxruntime";
const std::vector<std::string> loadable_kinds{"onnx"};

namespace {

void load_library(const std::string& library) {
    std::vector<std::string> names{"libonnxruntime.so.1", "libonnxruntime.so"};
    if (!library.empty()) names = {library};
    std::string problem;
    for (const auto& name : names) {
        void* handle = dlopen(name.c_str(), RTLD_NOW);
        if (handle == nullptr) {
            problem = dlerror();
            continue;
        }
        const auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
        if (base == nullptr) throw UserError("'" + name + "' is not ONNX Runtime");
        const OrtApi* api = base()->GetApi(ORT_API_VERSION);
        if (api == nullptr)
            throw UserError("'" + name + "' is ONNX Runtime " + base()->GetVersionString() + ", expected 1." +
                            std::to_string(ORT_API_VERSION) + " or newer");
        Ort::InitApi(api);
        return;
    }
    throw UserError("ONNX Runtime was not found (" + problem +
                    "); name it with --library, e.g. onnxruntime/capi/libonnxruntime.so.* of the Python package");
}

template <typename Value>
Output output_of(const Ort::Value& answer, const std::vector<std::int64_t>& shape, std::size_t count) {
    const auto* data = answer.GetTensorData<Value>();
    return {shape, std::vector<float>(data, data + count)};
}

class OnnxRuntime final : public Network {
public:
    OnnxRuntime(const std::string& model, const Artifact& artifact, int threads) : artifact_(artifact) {
        Ort::SessionOptions options;
        options.SetIntraOpNumThreads(threads);
        options.SetGraphOptimizationLevel(ORT_ENABLE_ALL);
        session_ = Ort::Session(environment_, model.data(), model.size(), options);
    }

    Output run(std::vector<float>& input) override {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const auto& shape = artifact_.input_shape;
        const auto tensor =
            Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape.data(), shape.size());
        const char* inputs[] = {artifact_.input.c_str()};
        const char* outputs[] = {artifact_.postprocess.tensor.c_str()};
        const auto answer = session_.Run(Ort::RunOptions{}, inputs, &tensor, 1, outputs, 1);
        const auto info = answer[0].GetTensorTypeAndShapeInfo();
        const auto count = info.GetElementCount();
        switch (info.GetElementType()) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return output_of<float>(answer[0], info.GetShape(), count);
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return output_of<std::uint8_t>(answer[0], info.GetShape(), count);
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: return output_of<std::uint16_t>(answer[0], info.GetShape(), count);
        default:
            throw UserError("'" + artifact_.path + "' answers neither in float32 nor in class numbers");
        }
    }

private:
    Artifact artifact_;
    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "segment"};
    Ort::Session session_{nullptr};
};

}  // namespace

std::vector<std::string> executable_precisions() {
    std::vector<std::string> all{"fp32", "int8"};
    // Elsewhere it has no kernels for fp16.
    if (architecture() == "aarch64" && lists_extensions() && lacking({"fphp"}).empty()) all.push_back("fp16");
    return all;
}

std::unique_ptr<Network> open_network(const Bundle& bundle, const Choice& choice, int threads,
                                      const std::string& library) {
    load_library(library);
    return std::make_unique<OnnxRuntime>(bundle.read(choice.artifact->path), *choice.artifact, threads);
}
