//! Gradients of a graph that Rust builds, by TensorFlow's own TF_AddGradients (the crate `tensorflow` calls the same
//! function). Of tf_symgrad it needs one line: TF_LoadLibrary.
//!
//! rustc --edition 2021 -O add_gradients.rs -L $TF -C link-arg=-Wl,-rpath,$TF
//! ./add_gradients $SYMGRAD/libtf_symgrad_cc.so
use std::ffi::{c_char, c_int, c_void, CStr, CString};
use std::ptr::{null, null_mut};

#[repr(C)]
#[derive(Clone, Copy)]
struct Output {
    oper: *mut c_void,
    index: c_int,
}

const FLOAT: c_int = 1;

#[link(name = "libtensorflow_cc.so.2", kind = "dylib", modifiers = "+verbatim")]
#[link(name = "libtensorflow_framework.so.2", kind = "dylib", modifiers = "+verbatim")]
extern "C" {
    fn TF_NewStatus() -> *mut c_void;
    fn TF_GetCode(status: *const c_void) -> c_int;
    fn TF_Message(status: *const c_void) -> *const c_char;
    fn TF_LoadLibrary(path: *const c_char, status: *mut c_void) -> *mut c_void;
    fn TF_NewGraph() -> *mut c_void;
    fn TF_NewOperation(graph: *mut c_void, op: *const c_char, name: *const c_char) -> *mut c_void;
    fn TF_SetAttrType(op: *mut c_void, name: *const c_char, value: c_int);
    fn TF_AddInput(op: *mut c_void, input: Output);
    fn TF_FinishOperation(op: *mut c_void, status: *mut c_void) -> *mut c_void;
    fn TF_AddGradients(
        graph: *mut c_void, y: *const Output, ny: c_int, x: *const Output, nx: c_int, dx: *const Output,
        status: *mut c_void, dy: *mut Output,
    );
    fn TF_NewSessionOptions() -> *mut c_void;
    fn TF_NewSession(graph: *mut c_void, options: *const c_void, status: *mut c_void) -> *mut c_void;
    fn TF_AllocateTensor(dtype: c_int, dims: *const i64, num_dims: c_int, bytes: usize) -> *mut c_void;
    fn TF_TensorData(tensor: *const c_void) -> *mut c_void;
    fn TF_SessionRun(
        session: *mut c_void, options: *const c_void, x: *const Output, feeds: *const *mut c_void, nx: c_int,
        y: *const Output, values: *mut *mut c_void, ny: c_int, targets: *const *const c_void, num_targets: c_int,
        metadata: *mut c_void, status: *mut c_void,
    );
}

struct Graph {
    graph: *mut c_void,
    status: *mut c_void,
}

impl Graph {
    fn check(&self) {
        unsafe {
            if TF_GetCode(self.status) != 0 {
                panic!("{}", CStr::from_ptr(TF_Message(self.status)).to_string_lossy());
            }
        }
    }

    fn node(&self, op: &str, name: &str, inputs: &[Output]) -> Output {
        let (op_name, node_name) = (CString::new(op).unwrap(), CString::new(name).unwrap());
        unsafe {
            let node = TF_NewOperation(self.graph, op_name.as_ptr(), node_name.as_ptr());
            if op == "Placeholder" {
                TF_SetAttrType(node, c"dtype".as_ptr(), FLOAT);
            }
            for input in inputs {
                TF_AddInput(node, *input);
            }
            let oper = TF_FinishOperation(node, self.status);
            self.check();
            Output { oper, index: 0 }
        }
    }
}

fn tensor(value: f32) -> *mut c_void {
    unsafe {
        let tensor = TF_AllocateTensor(FLOAT, null(), 0, 4);
        *(TF_TensorData(tensor) as *mut f32) = value;
        tensor
    }
}

fn main() {
    let g = unsafe { Graph { graph: TF_NewGraph(), status: TF_NewStatus() } };
    if let Some(library) = std::env::args().nth(1) {
        unsafe { TF_LoadLibrary(CString::new(library).unwrap().as_ptr(), g.status) };
        g.check();
    }

    // y = erfc(a * softplus(b))
    let x = [g.node("Placeholder", "a", &[]), g.node("Placeholder", "b", &[])];
    let softplus = g.node("Softplus", "softplus", &[x[1]]);
    let product = g.node("Mul", "product", &[x[0], softplus]);
    let y = g.node("Erfc", "y", &[product]);
    let mut dx = [Output { oper: null_mut(), index: 0 }; 2];
    unsafe { TF_AddGradients(g.graph, &y, 1, x.as_ptr(), 2, null(), g.status, dx.as_mut_ptr()) };
    g.check();

    let (a, b) = (0.5f32, 0.3f32);
    let (feeds, mut values) = ([tensor(a), tensor(b)], [null_mut(); 2]);
    unsafe {
        let session = TF_NewSession(g.graph, TF_NewSessionOptions(), g.status);
        g.check();
        TF_SessionRun(
            session, null(), x.as_ptr(), feeds.as_ptr(), 2, dx.as_ptr(), values.as_mut_ptr(), 2, null(), 0, null_mut(),
            g.status,
        );
        g.check();
    }
    let s = b.exp().ln_1p();
    let slope = -2.0 / std::f32::consts::PI.sqrt() * (-a * a * s * s).exp();
    let expected = [slope * s, slope * a / (1.0 + (-b).exp())];
    for (i, name) in ["a", "b"].iter().enumerate() {
        let got = unsafe { *(TF_TensorData(values[i]) as *const f32) };
        println!("dy/d{name} = {got:.6}, by hand {:.6}", expected[i]);
        assert!((got - expected[i]).abs() < 1e-5);
    }
}
